"""t(B): how long a denoising step of B rows takes, measured at the start and learned from every step since."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Lock

import numpy as np

from deployments.diffusion.engine.scheduler import Bucket

# A row more must raise the rate this much. Simulated with step times of 14 + 6 B and 6 + 24 B ms for B images at loads
# of 0.5 to 0.9, against a cap at 97% of the peak rate: the steep curve then runs 3 images at once instead of 4 and
# waits less, the flat one runs 8 either way.
WORTH = 0.013
NEWEST = 0.1  # weight of the newest step in a running mean
FORGOTTEN = 2000  # steps after which a width that was not seen again is not known any more
UNKNOWN_S = 0.05


@dataclass(slots=True)
class Seen:
    """What was measured of one bucket: running means by width, and at which step each was last seen."""

    seconds: dict[int, float] = field(default_factory=dict)
    at: dict[int, int] = field(default_factory=dict)
    steps: int = 0

    def add(self, width: int, seconds: float) -> None:
        known = self.seconds.get(width, seconds)
        self.seconds[width] = known + NEWEST * (seconds - known)
        self.steps += 1
        self.at[width] = self.steps
        oldest = min(self.at, key=self.at.__getitem__)
        if self.steps - self.at[oldest] > FORGOTTEN:
            del self.seconds[oldest], self.at[oldest]


class StepTimes:
    """Step times by bucket and width, and the cap on the width that follows from them.

    Width counts the rows of the denoiser's batch: two for an image with guidance. The cap is the knee, the width from
    which one more hardly raises the rate of rows and makes everyone wait. Thread-safe.
    """

    def __init__(self, max_width: int) -> None:
        self.max_width = max_width
        self._profiles: dict[str, Mapping[int, float]] = {}
        self._seen: dict[Bucket, Seen] = {}
        self._limits: dict[Bucket, int] = {}
        self._lines: dict[Bucket, Line] = {}  # until something is learned
        self._caps: dict[Bucket, int] = {}  # likewise
        self._lock = Lock()

    def start_with(self, model: str, profile: Mapping[int, float]) -> None:
        """Width -> seconds at one size of a model: the form of its curve where too little is known."""
        with self._lock:
            self._profiles[model] = profile
            self._lines.clear()
            self._caps.clear()

    def add(self, bucket: Bucket, width: int, seconds: float) -> None:
        """One step was made."""
        with self._lock:
            self._seen.setdefault(bucket, Seen()).add(width, seconds)
            self._lines.pop(bucket, None)
            self._caps.pop(bucket, None)

    def out_of_memory(self, bucket: Bucket, width: int) -> None:
        """A step of this width did not fit: from now on at most half of it."""
        with self._lock:
            self._limits[bucket] = max(1, width // 2)
            self._caps.pop(bucket, None)

    def step_s(self, bucket: Bucket, width: int) -> float:
        """Seconds that a step of this width takes, measured or estimated."""
        with self._lock:
            measured = self._measured(bucket)
            return measured[width] if width in measured else self._line(bucket).at(width)

    def cap(self, bucket: Bucket) -> int:
        """The width beyond which a step gains nothing, or does not fit."""
        with self._lock:
            if bucket not in self._caps:
                limit = self._limits.get(bucket, self.max_width)
                self._caps[bucket] = self._line(bucket).knee(limit)
            return self._caps[bucket]

    def _line(self, bucket: Bucket) -> "Line":
        if bucket not in self._lines:
            self._lines[bucket] = Line.through(self._points(bucket))
        return self._lines[bucket]

    def _measured(self, bucket: Bucket) -> Mapping[int, float]:
        return self._seen[bucket].seconds if bucket in self._seen else {}

    def _points(self, bucket: Bucket) -> Mapping[int, float]:
        """What was measured, and elsewhere the profile, made as much slower or faster as this bucket is."""
        measured, profile = self._measured(bucket), self._profiles.get(bucket[0])
        if profile is None:
            return measured or {1: UNKNOWN_S, self.max_width: UNKNOWN_S}
        form = Line.through(profile)
        ratios = [seconds / form.at(width) for width, seconds in measured.items()]
        ratio = float(np.mean(ratios)) if ratios else 1.0
        return {**{width: ratio * seconds for width, seconds in profile.items()}, **measured}


@dataclass(frozen=True, slots=True)
class Line:
    """Step times as they would be without the error of single measurements, which must not look like a knee."""

    base_s: float
    row_s: float

    @classmethod
    def through(cls, known: Mapping[int, float]) -> "Line":
        """That of least squares through measured times by width; it neither falls nor begins below zero."""
        widths, seconds = np.array(list(known)), np.array(list(known.values()))
        slope, base = np.polyfit(widths, seconds, 1) if len(known) > 1 else (0.0, -1.0)
        if base < 0:
            slope, base = np.dot(widths, seconds) / np.dot(widths, widths), 0.0
        elif slope < 0:
            slope, base = 0.0, seconds.mean()
        return cls(float(base), float(slope))

    def at(self, width: int) -> float:
        return self.base_s + self.row_s * width

    def knee(self, most: int) -> int:
        """The width from which one row more does not raise the rate enough; `most` where there is none."""
        rates = [width / self.at(width) for width in range(1, most + 1)]
        gains = (after / before for before, after in pairwise(rates))
        return next((width for width, gain in enumerate(gains, 1) if gain < 1 + WORTH), most)

"""t(B): how long a denoising step with batch size B takes, profiled at startup and learned from every step since."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Lock

import numpy as np

from deployments.diffusion.engine.scheduler import Bucket

# One more row must raise the throughput by this much. Simulated with step times of 14 + 6 B and 6 + 24 B ms for B
# images at loads of 0.5 to 0.9, against a cap at 97% of the peak throughput: the steep curve then runs 3 images at once
# instead of 4 and waits less, the flat one runs 8 either way.
MIN_GAIN = 0.013
NEWEST_WEIGHT = 0.1  # of the newest step in the running mean
FORGET_AFTER_STEPS = 2000  # steps after which a batch size that was not seen again is forgotten
DEFAULT_STEP_S = 0.05
SHORTEST_STEP_S = 1e-6  # a clock may find that a step took no time, which would have no rate


@dataclass(slots=True)
class Measurements:
    """Step times of one bucket: running means by batch size, and at which step each was last seen."""

    seconds: dict[int, float] = field(default_factory=dict)
    at: dict[int, int] = field(default_factory=dict)
    steps: int = 0

    def add(self, batch_size: int, seconds: float) -> None:
        """Update the running mean of this batch size; forget another one not seen for FORGET_AFTER_STEPS steps."""
        known = self.seconds.get(batch_size, seconds)
        self.seconds[batch_size] = known + NEWEST_WEIGHT * (seconds - known)
        self.steps += 1
        self.at[batch_size] = self.steps
        oldest = min(self.at, key=self.at.__getitem__)
        if self.steps - self.at[oldest] > FORGET_AFTER_STEPS:
            del self.seconds[oldest], self.at[oldest]


class LatencyModel:
    """Step times by bucket and batch size, and the cap on the batch size that follows from them.

    The batch size counts the rows of the denoiser's batch: two for an image with guidance. The cap is the knee of the
    curve: beyond it one more row hardly raises the throughput and slows every image. Thread-safe.
    """

    def __init__(self, max_batch_size: int) -> None:
        self.max_batch_size = max_batch_size
        self._profiles: dict[str, Mapping[int, float]] = {}
        self._measurements: dict[Bucket, Measurements] = {}
        self._limits: dict[Bucket, int] = {}
        self._fits: dict[Bucket, LinearFit] = {}  # valid until the next measurement
        self._caps: dict[Bucket, int] = {}  # likewise
        self._lock = Lock()

    def set_profile(self, model: str, profile: Mapping[int, float]) -> None:
        """Batch size -> seconds at one image size: the shape of the model's curve where measurements are few."""
        with self._lock:
            self._profiles[model] = profile
            self._fits.clear()
            self._caps.clear()

    def add(self, bucket: Bucket, batch_size: int, seconds: float) -> None:
        """Learn from one step."""
        with self._lock:
            self._measurements.setdefault(bucket, Measurements()).add(batch_size, max(seconds, SHORTEST_STEP_S))
            self._fits.pop(bucket, None)
            self._caps.pop(bucket, None)

    def out_of_memory(self, bucket: Bucket, batch_size: int) -> None:
        """A step of this batch size did not fit: from now on at most half of it."""
        with self._lock:
            self._limits[bucket] = max(1, batch_size // 2)
            self._caps.pop(bucket, None)

    def step_s(self, bucket: Bucket, batch_size: int) -> float:
        """Seconds that a step of this batch size takes, measured or estimated."""
        with self._lock:
            measured = self._measured(bucket)
            return measured[batch_size] if batch_size in measured else self._fit(bucket).at(batch_size)

    def is_measured(self, bucket: Bucket, batch_size: int) -> bool:
        """Whether a step of this batch size was made lately."""
        with self._lock:
            return batch_size in self._measured(bucket)

    def cap(self, bucket: Bucket) -> int:
        """The batch size beyond which a step gains nothing, or does not fit into memory."""
        with self._lock:
            if bucket not in self._caps:
                limit = self._limits.get(bucket, self.max_batch_size)
                self._caps[bucket] = self._fit(bucket).knee(limit)
            return self._caps[bucket]

    def _fit(self, bucket: Bucket) -> "LinearFit":
        if bucket not in self._fits:
            self._fits[bucket] = LinearFit.through(self._points(bucket))
        return self._fits[bucket]

    def _measured(self, bucket: Bucket) -> Mapping[int, float]:
        return self._measurements[bucket].seconds if bucket in self._measurements else {}

    def _points(self, bucket: Bucket) -> Mapping[int, float]:
        """The measurements and, for other batch sizes, the profile scaled to this bucket's speed."""
        measured, profile = self._measured(bucket), self._profiles.get(bucket[0])
        if profile is None:
            return measured or {1: DEFAULT_STEP_S, self.max_batch_size: DEFAULT_STEP_S}
        fit = LinearFit.through(profile)
        ratios = [seconds / fit.at(batch_size) for batch_size, seconds in measured.items()]
        ratio = float(np.mean(ratios)) if ratios else 1.0
        return {**{batch_size: ratio * seconds for batch_size, seconds in profile.items()}, **measured}


@dataclass(frozen=True, slots=True)
class LinearFit:
    """Step time as a line over the batch size: noise in single measurements must not look like a knee."""

    base_s: float
    row_s: float

    @classmethod
    def through(cls, known: Mapping[int, float]) -> "LinearFit":
        """Least squares through times by batch size, with neither a falling slope nor a negative base."""
        batch_sizes, seconds = np.array(list(known)), np.array(list(known.values()))
        slope, base = np.polyfit(batch_sizes, seconds, 1) if len(known) > 1 else (0.0, -1.0)
        if base < 0:
            slope, base = np.dot(batch_sizes, seconds) / np.dot(batch_sizes, batch_sizes), 0.0
        elif slope < 0:
            slope, base = 0.0, seconds.mean()
        return cls(float(base), float(slope))

    def at(self, batch_size: int) -> float:
        """Seconds of a step of this batch size."""
        return self.base_s + self.row_s * batch_size

    def knee(self, limit: int) -> int:
        """The batch size from which one more row does not raise the throughput enough; `limit` where there is none."""
        rates = [batch_size / self.at(batch_size) for batch_size in range(1, limit + 1)]
        gains = (after / before for before, after in pairwise(rates))
        return next((batch_size for batch_size, gain in enumerate(gains, 1) if gain < 1 + MIN_GAIN), limit)

"""What a generator replica tells the routers of all handles, and how it knows how long its images take."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

STATS_PERIOD_S = 2.0  # between two reports of a replica
NEWEST_WEIGHT = 0.1  # of the newest image in the running mean
STEPS_AN_OCTAVE = 2  # of what is reported


class RoutingStats(NamedTuple):
    """What a replica reports to routers; a new one has reported nothing.

    Serve's controller sends every change to all handles, so what changes with each image is not in it, or is coarse.
    """

    models: Sequence[str] = ()  # in memory
    loading: Sequence[str] = ()
    loads_s: Mapping[str, float] = {}  # what a load of each model takes
    row_s: float = 0.0  # of the device for an image; 0: unknown


class RecentRows:
    """Running mean of the seconds of the device that an image takes (`Row.shared_s`)."""

    def __init__(self) -> None:
        self.mean_s = 0.0  # 0: there was none

    def add(self, seconds: float) -> None:
        """Count the next image."""
        self.mean_s += (seconds - self.mean_s) * (NEWEST_WEIGHT if self.mean_s else 1.0)

    @property
    def coarse_s(self) -> float:
        """The mean rounded to the next power of the square root of two, which seldom changes."""
        return 2 ** (round(STEPS_AN_OCTAVE * math.log2(self.mean_s)) / STEPS_AN_OCTAVE) if self.mean_s else 0.0

"""Loads of a minute that need one to three generators."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.plan.loads import Load, Request

SIDE = 256  # pixels, a native size of the app: its picture takes the other stages little time
STEPS = (20, 30, 50)
APP = "face-avatar"
TAIL_S = 14.0  # after the last arrivals: replicas go meanwhile


@dataclass(frozen=True, slots=True)
class Phase:
    """Poisson arrivals."""

    seconds: float
    per_s: float
    batch: int = 1  # images of each request


SHAPES = {
    "steady": (Phase(46, 1.0),),
    "step": (Phase(16, 0.5), Phase(30, 1.5)),
    "burst": (Phase(15, 0.5), Phase(1, 5, batch=4), Phase(30, 0.5)),
}


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests in order of time, within `seconds`."""

    name: str
    seconds: float
    at_s: Sequence[float]
    steps: Sequence[int]
    batches: Sequence[int]

    @property
    def load(self) -> Load:
        """For the simulator and for the service."""
        return Load(self.name, list(map(request_at, self.at_s, self.steps, self.batches)), self.seconds)


def drawn(name: str, seed: int = 0) -> Arrivals:
    """The requests of a shape; the same for the same seed."""
    random = np.random.default_rng(seed)
    at_s: list[float] = []
    batches: list[int] = []
    begins_s = 0.0
    for phase in SHAPES[name]:
        moments = np.sort(random.uniform(0, phase.seconds, random.poisson(phase.per_s * phase.seconds)))
        at_s += (begins_s + moments).round(3).tolist()
        batches += [phase.batch] * len(moments)
        begins_s += phase.seconds
    return Arrivals(name, begins_s + TAIL_S, at_s, random.choice(STEPS, len(at_s)).tolist(), batches)


def request_at(at_s: float, steps: int, batch: int = 1) -> Request:
    """A synchronous request."""
    return Request(
        at_s, tenant="t1", app=APP, width=SIDE, height=SIDE, steps=steps, guided=True, batch=batch,
        queued=False, low=False, deadline_s=None,
    )  # fmt: skip

"""The cheapest fleet that knows the load before it comes: so many replicas in each ten minutes, found by trying.

It is what an autoscaler is held against: it has the same simulator, durations of starts and billing, and every ten
minutes of it meet the target.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from loadtest.plan.ledger import WINDOW_S, Window
from loadtest.plan.loads import Load
from loadtest.plan.scaled_service import ScaledService
from loadtest.plan.scenario import Scenario

TRIES = 16
FIRST_UTILIZATION = 0.7  # of the first schedule
FEWER, MORE = 0.95, 1.05  # the steps from one schedule to the next, besides one replica
GENERATOR = "AvatarGenerator"


class Moment(Protocol):
    """The part of Serve's context that a schedule reads."""

    @property
    def current_time(self) -> float:
        """Seconds."""


class SchedulePolicy:
    """An autoscaling policy for simulations: `replicas` by window, ordered `lead_s` before they have to run."""

    def __init__(self, replicas: Sequence[int], lead_s: float) -> None:
        self._replicas = replicas
        self._lead_s = lead_s

    def __call__(self, context: Moment) -> tuple[int, dict[str, Any]]:
        """The most that any moment from now until a replica that is ordered now would run needs."""
        last = len(self._replicas) - 1
        first = min(last, int(context.current_time / WINDOW_S))
        ordered = min(last, int((context.current_time + self._lead_s) / WINDOW_S))
        return max(self._replicas[first : ordered + 1]), {}


Run = ScaledService[Any, Any]


@dataclass(frozen=True, slots=True)
class Oracle:
    """A schedule that was tried: its simulation, and how many windows of it do not meet the target."""

    run: Run
    missed: int


def is_met(window: Window, share: float, below_s: float) -> bool:
    """Whether such a share of the requests that ended in a window were answered in time; those that failed were not."""
    in_time = sum(latency_s < below_s for latency_s in window.latencies_s)
    return in_time >= share * (len(window.latencies_s) + window.failed)


def oracle(load: Load, scenario: Scenario, simulate: Callable[[Scenario], Run], share: float, below_s: float) -> Oracle:
    """Of the schedules that are tried, the cheapest of those that miss the target in the fewest windows."""
    return min(_tried(load, scenario, simulate, share, below_s), key=lambda each: (each.missed, each.run.cost))


def _tried(
    load: Load, scenario: Scenario, simulate: Callable[[Scenario], Run], share: float, below_s: float
) -> Iterator[Oracle]:
    """A try gives more replicas to windows that miss the target and fewer to others, down to one more than missed it.

    A window after one that misses it may only have its backlog, and is judged once that one meets it.
    """
    most = scenario.service.scaling[GENERATOR].max_replicas
    replicas = [min(most, math.ceil(busy / FIRST_UTILIZATION)) for busy in busy_replicas(load, scenario)]
    too_few = [min(each, 1) - 1 for each in replicas]
    for _ in range(TRIES):
        run = simulate(_scheduled(scenario, replicas))
        met = [is_met(window, share, below_s) for window in run.windows]
        yield Oracle(run, met.count(False))
        following = list(replicas)
        for index, now in enumerate(replicas):
            if met[index]:
                following[index] = min(now, max(too_few[index] + 1, math.ceil(FEWER * now) - 1))
            elif index == 0 or met[index - 1]:
                too_few[index] = max(too_few[index], now)
                following[index] = min(most, math.floor(MORE * now) + 1)
        if following == replicas:
            return
        replicas = following


def busy_replicas(load: Load, scenario: Scenario) -> npt.NDArray[np.float64]:
    """Replicas that the requests of each window would keep busy, if every image had its steps to itself."""
    curves, models, columns = scenario.curves, scenario.service.models, load.columns
    kinds_s = []
    for kind in columns.kinds:
        model, size = models[kind.app], (kind.width, kind.height)
        step_s = curves.models[model].at(size).step_s(2 if kind.guided else 1)
        kinds_s.append(kind.batch * (kind.steps * step_s + curves.decode_s(model, size)))
    windows = (columns.at_s // WINDOW_S).astype(int)
    return np.bincount(windows, np.array(kinds_s)[columns.kind], math.ceil(load.seconds / WINDOW_S)) / WINDOW_S


def _scheduled(scenario: Scenario, replicas: Sequence[int]) -> Scenario:
    """The service with a fleet that follows a schedule without any delay."""
    starts, models = scenario.starts, scenario.service.settings.generator.models.values()
    lead_s = starts.node_s + starts.replica_s + max(starts.load_s(model.memory()) for model in models)
    changes = {
        "initial_replicas": replicas[0],
        "min_replicas": 0,
        "upscale_delay_s": 0,
        "downscale_delay_s": 0,
        "downscale_to_zero_delay_s": 0,
        "policy": {
            "policy_function": f"{__name__}:SchedulePolicy",
            "policy_kwargs": {"replicas": list(replicas), "lead_s": lead_s},
        },
    }
    return scenario.serving(scenario.service.with_generator_changes(changes))

"""What was measured of a service, kept as JSON, and its simulation beside it."""

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from ray.serve.config import AutoscalingConfig

from loadtest.plan.curves import Curves, ModelTimes
from loadtest.plan.loads import Load
from loadtest.plan.reality.loads import Arrivals
from loadtest.plan.reality.service import write_config
from loadtest.plan.scenario import Scenario
from loadtest.plan.service import NodePrice, Service, Starts
from loadtest.plan.simulation import Simulation

RECORDED = Path(__file__).with_name("recording.json")
MACHINE = NodePrice(gpus=1, per_hour=1.0)  # one for each replica, for as long as that is there
MOST_OFF = {"p50": 0.15, "p95": 0.25, "replica-seconds": 0.15}
"""Bars: by how much of the measured figure the simulated one may be off."""


@dataclass(frozen=True, slots=True)
class Lone:
    """A request that nothing else delayed, seconds."""

    latency_s: float
    before_s: float  # the stages before the generator


@dataclass(slots=True)
class Replica:
    """A generator; seconds after the start of the run, None for what did not happen in it."""

    began_s: float  # 0.0 for one that was there at first
    ready_s: float | None = None
    stopped_s: float | None = None  # it was told to drain
    ended_s: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One time that the service had a load; `latencies_s` are in the order of the requests."""

    load: str
    latencies_s: Sequence[float]
    replicas: Sequence[Replica]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run: percentiles of the latency, and how long generators were there, from their order to their end."""

    p50_s: float
    p95_s: float
    replica_s: float

    @classmethod
    def median(cls, several: Sequence["Figures"]) -> "Figures":
        """Of each figure by itself."""
        columns = zip(*((each.p50_s, each.p95_s, each.replica_s) for each in several), strict=True)
        return cls(*map(statistics.median, columns))


@dataclass(frozen=True, slots=True)
class Recording:
    """What a service was measured to do, and all that its simulation needs."""

    command: str
    date: str
    machine: str
    scaling: Mapping[str, Any]  # the generator's `autoscaling_config`
    before_s: float  # of a request, before its first step
    after_s: float
    model: str
    times: ModelTimes
    loads: Sequence[Arrivals]
    runs: Sequence[Run]

    @classmethod
    def read(cls, path: Path) -> "Recording":
        """Raises: OSError; ValueError, of which pydantic's errors are."""
        return TypeAdapter(cls).validate_json(path.read_text())

    def write(self, path: Path) -> None:
        """As JSON. Raises: OSError."""
        path.write_text(json.dumps(asdict(self), separators=(",", ":")) + "\n")

    def measured(self, load: Arrivals) -> Figures:
        """Medians of its runs."""
        return Figures.median([_measured(run, load.seconds) for run in self._runs(load)])

    def start_s(self, load: Arrivals) -> float:
        """Median of the starts of generators in its runs; 0 where there were none."""
        starts = [
            replica.ready_s - replica.began_s
            for run in self._runs(load)
            for replica in run.replicas
            if replica.began_s and replica.ready_s is not None
        ]
        return statistics.median(starts) if starts else 0.0

    def simulated(self, load: Arrivals) -> Figures:
        """Medians of as many simulations, each with another seed."""
        scenario = self._scenario(load)
        seeds = range(len(self._runs(load)))
        return Figures.median([_simulated(load.load, replace(scenario, seed=seed)) for seed in seeds])

    def _scenario(self, load: Arrivals) -> Scenario:
        with tempfile.TemporaryDirectory() as folder:
            service = Service.read(write_config(Path(folder)))
        service = service.with_generator_scaling(AutoscalingConfig(**self.scaling))
        starts = Starts(
            node_s=0, node_idle_s=0, replica_s=self.start_s(load), load_s_per_gb=0, warm_s=0,
            before_s=self.before_s, after_s=self.after_s,
        )  # fmt: skip
        return Scenario(service, Curves({self.model: self.times}), starts, MACHINE, launched_ahead=False)

    def _runs(self, load: Arrivals) -> list[Run]:
        return [run for run in self.runs if run.load == load.name]


def _measured(run: Run, seconds: float) -> Figures:
    lived_s = (min(replica.ended_s or seconds, seconds) - replica.began_s for replica in run.replicas)
    p50_s, p95_s = np.percentile(run.latencies_s, (50, 95))
    return Figures(float(p50_s), float(p95_s), sum(lived_s))


def _simulated(load: Load, scenario: Scenario) -> Figures:
    run = Simulation(load, scenario).run()
    p50_s, p95_s = np.percentile(run.ledger.synchronous_s, (50, 95))
    return Figures(float(p50_s), float(p95_s), run.generators.fleet.paid_node_s(load.seconds))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of one load, measured and simulated."""

    load: str
    figure: str
    measured_s: float
    simulated_s: float

    @property
    def ratio(self) -> float:
        """Simulated by measured."""
        return self.simulated_s / self.measured_s

    @property
    def met(self) -> bool:
        """Whether it is within its bar."""
        return abs(self.ratio - 1) <= MOST_OFF[self.figure]


def compared(recording: Recording) -> list[Comparison]:
    """All figures of all loads."""
    found: list[Comparison] = []
    for load in recording.loads:
        real, ours = recording.measured(load), recording.simulated(load)
        pairs = ((real.p50_s, ours.p50_s), (real.p95_s, ours.p95_s), (real.replica_s, ours.replica_s))
        found += [Comparison(load.name, name, *pair) for name, pair in zip(MOST_OFF, pairs, strict=True)]
    return found

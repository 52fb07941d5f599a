"""What exact replicas do with a load, as a table: by how many images they have, and by what is asked for.

A fleet of a thousand is not simulated step by step. Of replicas with the same models a few are, with the real scheduler
and the router's choice, at rates from next to nothing to more than they manage. Each request that they drew is a
record of how long its images took. A fleet draws its requests from those of the rate at which replicas have as many
images as its own have, and, where they have more than at any rate that they manage, from those that came when as many
were there.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deployments.types import AvatarSpec
from loadtest.plan.clock import Clock
from loadtest.plan.curves import Curves
from loadtest.plan.generators import Generators, Outcomes
from loadtest.plan.loads import Columns, Request
from loadtest.plan.replica import Image
from loadtest.plan.scenario import Scenario
from loadtest.plan.service import NodePrice, Starts

MOST_REPLICAS = 16  # that are simulated together: more choose as well among two
SHARES = (0.05, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.4)  # of the rate that full steps would bear
REQUESTS = 1200  # of each rate
WARM_UP = 0.1  # of them, which find fewer images than others will
MOST_BATCH = 64
LEVEL_STEP = 1.17
FOREVER_S = 1e9
MOST_CELLS = 64  # kinds of a load that are told apart
Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]


class Cell(NamedTuple):
    """What makes requests alike for a generator."""

    model: str
    width: int
    height: int
    steps: int
    guided: bool
    batch: int

    @property
    def work(self) -> float:
        """By which it is compared with others."""
        return self.width * self.height * self.steps * (1 + self.guided) * self.batch


@dataclass(frozen=True, slots=True)
class Demand:
    """What a load asks generators for: its cells and their shares, the cell of each of its kinds, tenants' shares."""

    cells: Sequence[Cell]
    shares: Floats
    of_kind: Numbers
    tenants: Floats

    @classmethod
    def of(cls, columns: Columns, models: Mapping[str, str]) -> "Demand":
        """Rare cells beyond `MOST_CELLS` count as the one of their model that is the most like them."""
        asked = [_cell(kind, models[kind.app]) for kind in columns.kinds]
        counts: dict[Cell, int] = {}
        for cell, count in zip(asked, np.bincount(columns.kind, minlength=len(asked)).tolist(), strict=True):
            counts[cell] = counts.get(cell, 0) + count
        cells = sorted(counts, key=lambda cell: -counts[cell])[:MOST_CELLS]
        cells += [cell for cell in counts if cell.model not in {each.model for each in cells}]
        number = {cell: index for index, cell in enumerate(cells)}
        of_kind = [number[cell if cell in number else _nearest(cell, cells)] for cell in asked]
        shares = np.bincount(np.array(of_kind, np.intp)[columns.kind], minlength=len(cells)).astype(float)
        tenants = np.bincount(columns.tenant, minlength=len(columns.tenants)).astype(float)
        return cls(cells, shares / shares.sum(), np.array(of_kind, np.intp), tenants / tenants.sum())


def _cell(kind: Request, model: str) -> Cell:
    return Cell(model, kind.width, kind.height, kind.steps, kind.guided, kind.batch)


def _nearest(cell: Cell, cells: Sequence[Cell]) -> Cell:
    """Of the same model and, where there is one, of as many images."""
    alike = [each for each in cells if each.model == cell.model]
    return min(alike, key=lambda each: (each.batch != cell.batch, abs(math.log(each.work / cell.work))))


@dataclass(slots=True, eq=False)
class Sample:
    """A request of a table's replicas. Seconds are from its arrival."""

    cell: int
    came_at: float
    level: float  # images that each replica had
    seconds: list[float] = field(default_factory=list)  # of each image, in order of their ends


class Bin(NamedTuple):
    """Requests that came in one state of the replicas: at a rate that they manage, or at a level beyond that."""

    level: float  # the mean
    samples: Sequence[Sample]


class Records:
    """The requests that replicas with the same models drew, by state and cell."""

    def __init__(self, bins: Sequence[Bin], cells: int, steady: float, busy: Sequence[tuple[float, float]]) -> None:
        """`busy` has of each rate the mean level, and the seconds for which an image keeps a replica busy.

        Replicas that manage their rate have hardly more images than `steady`.
        """
        self.steady = steady
        samples = [sample for each in bins for sample in each.samples]
        state = np.repeat(np.arange(len(bins)), [len(each.samples) for each in bins])
        kinds = np.array([sample.cell for sample in samples], np.intp)
        order = np.lexsort((state, kinds))
        self._seconds = np.zeros((len(samples), max(len(sample.seconds) for sample in samples)))
        for row, index in zip(self._seconds, order.tolist(), strict=True):
            row[: len(samples[index].seconds)] = samples[index].seconds
        counts = np.zeros((cells, len(bins)), np.intp)
        np.add.at(counts, (kinds, state), 1)
        first = np.concatenate([[0], np.cumsum(counts.ravel())[:-1]]).reshape(counts.shape)
        nearest = np.stack([_nearest_filled(row) for row in counts])
        self._first = np.take_along_axis(first, nearest, axis=1)
        self._count = np.take_along_axis(counts, nearest, axis=1)
        self._states = np.array([each.level for each in bins])
        self._levels, self._busy = np.array(sorted(busy)).T

    def draw(self, cells: Numbers, levels: Floats, random: np.random.Generator) -> Floats:
        """Seconds of each image of requests that come when the replicas have `levels` images: (requests, images).

        Between two states either is drawn from, the nearer one more often.
        """
        chances = random.random((2, len(cells)))
        between = np.interp(levels, self._states, np.arange(len(self._states)))
        state = (between + chances[0]).astype(np.intp)
        picked = self._first[cells, state] + (chances[1] * self._count[cells, state]).astype(np.intp)
        seconds: Floats = self._seconds[picked]
        return seconds

    def busy_s(self, levels: Floats) -> Floats:
        """Seconds for which an image keeps a replica busy that has so many: fewer where they share steps."""
        busy_s: Floats = np.interp(levels, self._levels, self._busy)
        return busy_s


def _nearest_filled(counts: Numbers) -> Numbers:
    """For each state of a cell the nearest one with records; the first where none has any."""
    filled = np.flatnonzero(counts)
    if not len(filled):
        return np.zeros(len(counts), np.intp)
    distances = np.abs(np.arange(len(counts))[:, None] - filled[None, :])
    nearest: Numbers = filled[np.argmin(distances, axis=1)]
    return nearest


class ReplicaTable:
    """Records by the models that replicas have and by how many there are; each is made when it is first asked for."""

    def __init__(self, demand: Demand, scenario: Scenario, requests: int = REQUESTS) -> None:
        """`requests` are simulated of each rate."""
        self.demand = demand
        self.requests = requests
        self._scenario = scenario
        self._records: dict[tuple[frozenset[str], int], Records] = {}
        sizes = sorted({(cell.model, (cell.width, cell.height)) for cell in demand.cells})
        self.costs = scenario.curves.costs(sizes, 2 * scenario.service.settings.generator.max_rows)

    def records(self, models: frozenset[str], replicas: int) -> Records:
        """Of the largest number of replicas that is simulated and not above `replicas`."""
        together = 2 ** int(math.log2(min(replicas, MOST_REPLICAS)))
        known = self._records.get((models, together))
        if known is None:
            known = self._records[models, together] = SampledReplicas(self, models, together).records()
        return known

    def scenario_of(self, models: frozenset[str], replicas: int) -> Scenario:
        """Some replicas that run already, with these models and no other."""
        curves = Curves({name: times for name, times in self._scenario.curves.models.items() if name in models})
        starts = Starts(load_s_per_gb=0.0, warm_s=0.0)
        service = self._scenario.service.fixed(replicas)
        return replace(
            self._scenario, service=service, curves=curves, starts=starts, price=NodePrice(gpus=1, per_hour=0.0)
        )


class SampledReplicas:
    """A few exact replicas with the load's requests at one rate after another."""

    def __init__(self, table: ReplicaTable, models: frozenset[str], replicas: int) -> None:
        demand = table.demand
        self._demand = demand
        self._scenario = table.scenario_of(models, replicas)
        self._replicas = replicas
        self._requests = table.requests
        self._cells = [index for index, cell in enumerate(demand.cells) if cell.model in models]
        self._weights = demand.shares[self._cells].tolist()
        self._tenants = [f"t{number}" for number in range(len(demand.tenants))]
        self._tenants_before: list[float] = np.cumsum(demand.tenants).tolist()
        self._costs = table.costs
        self._random = Random(self._replicas)

    def records(self) -> Records:
        """Of all rates."""
        bins: list[Bin] = []
        busy: list[tuple[float, float]] = []
        beyond: list[Sample] = []
        steady = 0.0
        for share in SHARES:
            came, busy_s = self._run_at(share * self._replicas / self._mean_work_s())
            warm = came[int(WARM_UP * len(came)) :]
            level = float(np.mean([sample.level for sample in warm]))
            busy.append((level, busy_s / sum(len(sample.seconds) for sample in came)))
            if share < 1:
                bins.append(Bin(level, warm))
                steady = max(steady, float(np.quantile([sample.level for sample in came], 0.9)))
            else:
                beyond += came
        bins.sort(key=lambda each: each.level)
        return Records([*bins, *_by_level(beyond, steady)], len(self._demand.cells), steady, busy)

    def _mean_work_s(self) -> float:
        """Seconds of a replica with full steps for a request."""
        total = sum(weight * self._work_s(cell) for cell, weight in zip(self._cells, self._weights, strict=True))
        return float(total / sum(self._weights))

    def _work_s(self, index: int) -> float:
        cell = self._demand.cells[index]
        bucket = cell.model, _size(cell)
        full = self._costs.cap(bucket)
        step_s = self._costs.step_s(bucket, full) * (1 + cell.guided) / full
        return cell.batch * (cell.steps * step_s + self._scenario.curves.decode_s(cell.model, _size(cell)))

    def _run_at(self, per_s: float) -> tuple[list[Sample], float]:
        """Requests until enough came, or replicas have as many images as they may; and the seconds of busy replicas."""
        clock, random = Clock(), self._random
        outcomes = Outcomes(lambda image: image.job.seconds.append(clock.now - image.job.came_at), lambda _: None)
        generators = Generators(clock, self._scenario, self._costs, outcomes)
        samples: list[Sample] = []

        def arrive() -> None:
            [cell] = random.choices(self._cells, self._weights)
            samples.append(Sample(cell, clock.now, generators.ongoing / self._replicas))
            [tenant] = random.choices(self._tenants, cum_weights=self._tenants_before)
            spec = _spec(self._demand.cells[cell], tenant, clock.now)
            for number in range(self._demand.cells[cell].batch):
                generators.call(Image(MOST_BATCH * len(samples) + number, spec, samples[-1]))
            if len(samples) < self._requests and not generators.waiting:
                clock.at(clock.now + random.expovariate(per_s), arrive)

        clock.at(0.001, arrive)  # the replicas run from 0 on
        clock.run_while(lambda: not samples or generators.ongoing > 0 or len(samples) < self._requests)
        return samples, generators.busy_s


def _by_level(samples: Sequence[Sample], above: float) -> Iterator[Bin]:
    """Those that came when the replicas had more images: each bin has a sixth more of them than the one before."""
    while chosen := [sample for sample in samples if sample.level > above]:
        above *= LEVEL_STEP
        within = [sample for sample in chosen if sample.level <= above]
        if within:
            yield Bin(float(np.mean([sample.level for sample in within])), within)


def _size(cell: Cell) -> tuple[int, int]:
    return cell.width, cell.height


def _spec(cell: Cell, tenant: str, now: float) -> AvatarSpec:
    return AvatarSpec(
        model=cell.model, seed=0, prompt="", negative_prompt="", width=cell.width, height=cell.height,
        num_inference_steps=cell.steps, guidance_scale=2.0 if cell.guided else 1.0, task_id="", image_index=0,
        submitted_at=now, deadline=FOREVER_S, tenant=tenant, tenant_used_s=0.0,
    )  # fmt: skip

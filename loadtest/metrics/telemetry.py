"""Time series from the scrapes of a load test: replicas, nodes, queue and batched steps."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from loadtest.metrics.scrape import Labels, Scrape

HELD_S = 12.0  # for which a missing gauge keeps its value: Ray stops exporting gauges that are not set

Point = tuple[float, float | None]
"""Seconds after the first request, and the value then; None where it is unknown."""


@dataclass(frozen=True, slots=True)
class Line:
    """One series of values in order of time, with its name in the legend."""

    name: str
    points: tuple[Point, ...]

    @property
    def values(self) -> list[float]:
        """The known values in order of time; empty where none is known."""
        return [value for _, value in self.points if value is not None]


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Lines over time; a group is empty where the service exported nothing for it."""

    replicas: tuple[Line, ...] = ()  # running replicas by deployment, and the nodes
    targets: tuple[Line, ...] = ()  # target number of replicas
    queue: tuple[Line, ...] = ()  # waiting tasks, running tasks
    rows: tuple[Line, ...] = ()  # unfinished images, images per step


def telemetry_of(scrapes: Sequence[Scrape], started: float) -> Telemetry:
    """`started` is the time of the first request, unix seconds."""
    if not scrapes:
        return Telemetry()
    times = [scrape.at - started for scrape in scrapes]
    nodes = Line("nodes", tuple((at, float(scrape.nodes)) for at, scrape in zip(times, scrapes, strict=True)))
    running = _gauges(scrapes, times, "serve_deployment_replica_healthy", "deployment", sum)
    return Telemetry(
        replicas=(*running, nodes),
        targets=_gauges(scrapes, times, "serve_autoscaling_target_replicas", "deployment", max),
        queue=tuple(
            line
            for line in _gauges(scrapes, times, "avatar_queue_tasks", "state", max)
            if line.name in ("waiting", "running")
        ),
        rows=(
            *(Line("unfinished", line.points) for line in _gauges(scrapes, times, "avatar_rows", "", sum)),
            *_rows_a_step(scrapes, times),
        ),
    )


def _gauges(
    scrapes: Sequence[Scrape], times: Sequence[float], name: str, label: str, join: Callable[[Iterable[float]], float]
) -> tuple[Line, ...]:
    """A line for each value of the label; processes that export the same value are aggregated."""
    found: defaultdict[str, dict[float, float]] = defaultdict(dict)
    for at, scrape in zip(times, scrapes, strict=True):
        for key, values in _by_label(scrape, name, label):
            found[key][at] = join(values)
    return tuple(Line(key, tuple(_held(values, times))) for key, values in sorted(found.items()))


def _by_label(scrape: Scrape, name: str, label: str) -> Iterator[tuple[str, list[float]]]:
    grouped: defaultdict[str, list[float]] = defaultdict(list)
    for series in scrape.series:
        if series.name == name:
            grouped[series.labels.get(label, "")].append(series.value)
    yield from grouped.items()


def _held(values: dict[float, float], times: Iterable[float]) -> Iterator[Point]:
    last_at, last = float("-inf"), 0.0
    for at in times:
        if at in values:
            last_at, last = at, values[at]
        yield at, last if at - last_at <= HELD_S else None


def _rows_a_step(scrapes: Sequence[Scrape], times: Sequence[float]) -> Iterator[Line]:
    """The mean between consecutive scrapes with new steps.

    Of the buckets, which are one for each number of rows: the sum that Ray exports is made of the buckets' middles.
    """
    points: list[Point] = []
    before: dict[str, float] = {}
    for at, scrape in zip(times, scrapes, strict=True):
        buckets = [series for series in scrape.series if series.name == "avatar_step_rows_bucket"]
        grown: defaultdict[float, float] = defaultdict(float)  # new steps with at most that many rows
        for series in buckets:
            grown[float(series.labels["le"])] += series.value - before.get(_process(series.labels), 0.0)
        before |= {_process(series.labels): series.value for series in buckets}
        if steps := max(grown.values(), default=0.0):
            points.append((at, _mean(grown, steps)))
    if points:
        yield Line("a step", tuple(points))


def _mean(at_most: Mapping[float, float], steps: float) -> float:
    """The mean from cumulative counts by upper bound; values above the last bound count as the next whole number."""
    total = below = bound = 0.0
    for upper, count in sorted(at_most.items()):
        bound = bound + 1 if math.isinf(upper) else upper
        total += bound * (count - below)
        below = count
    return total / steps


def _process(labels: Labels) -> str:
    return "|".join(f"{name}={value}" for name, value in sorted(labels.items()))

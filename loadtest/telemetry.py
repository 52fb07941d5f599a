"""What the scrapes of a load test come to: replicas, nodes, queue and shared steps over its time."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from loadtest.scrape import Labels, Scrape

HELD_S = 12.0  # a gauge that is not exported is taken for what it was; Ray forgets one that was not set for a while

Point = tuple[float, float | None]
"""Seconds after the first request, and the value there; None where nothing is known."""


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    points: tuple[Point, ...]

    @property
    def values(self) -> list[float]:
        return [value for _, value in self.points if value is not None]


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Lines over time; a group is empty where the service told nothing of it."""

    replicas: tuple[Line, ...] = ()  # those that run, by deployment, and the nodes
    targets: tuple[Line, ...] = ()  # how many replicas there shall be
    queue: tuple[Line, ...] = ()  # tasks that wait, tasks at work
    rows: tuple[Line, ...] = ()  # images that wait or are drawn, images that share a step


def telemetry_of(scrapes: Sequence[Scrape], started: float) -> Telemetry:
    """`started` is the first request's, unix seconds."""
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
            *_ratio(scrapes, times, "avatar_step_rows"),
        ),
    )


def _gauges(
    scrapes: Sequence[Scrape], times: Sequence[float], name: str, label: str, join: Callable[[Iterable[float]], float]
) -> tuple[Line, ...]:
    """A line for each value of the label; the processes that tell of the same are joined."""
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


def _ratio(scrapes: Sequence[Scrape], times: Sequence[float], histogram: str) -> Iterator[Line]:
    """The mean of what a histogram saw from one scrape in which it had grown to the next."""
    points: list[Point] = []
    before: dict[tuple[str, str], float] = {}
    for at, scrape in zip(times, scrapes, strict=True):
        now = {
            (series.name, _process(series.labels)): series.value
            for series in scrape.series
            if series.name in (f"{histogram}_sum", f"{histogram}_count")
        }
        grown = {key: value - before.get(key, 0.0) for key, value in now.items()}
        total, count = (
            sum(each for (name, _), each in grown.items() if name.endswith(end)) for end in ("_sum", "_count")
        )
        if count > 0:
            points.append((at, total / count))
        before |= now
    if points:
        yield Line("a step", tuple(points))


def _process(labels: Labels) -> str:
    return "|".join(f"{name}={value}" for name, value in sorted(labels.items()))

"""The figures of a load test: its answers aggregated by kind and over time."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from loadtest.load.answers import Answer, Group, UserCount, Verdict
from loadtest.metrics.scrape import Scrape
from loadtest.metrics.telemetry import Line, Telemetry, telemetry_of

GROUPS: tuple[Group, ...] = get_args(Group)
STAGES = ("fetch", "face", "diffusion", "finish", "store")  # in their order
RATE_SLICES = 24  # at most
LATENCY_SLICES = 8  # fewer, as percentiles of few answers mean little
SLICES_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of right answers, in seconds; None where there were none."""

    p50_s: float | None
    p95_s: float | None
    p99_s: float | None

    @classmethod
    def of(cls, answers: Iterable[Answer]) -> "Latency":
        """Refused and wrong answers do not count."""
        values = [answer.latency_s for answer in answers if answer.verdict == "right"]
        return cls(percentile(values, 50), percentile(values, 95), percentile(values, 99))


@dataclass(frozen=True, slots=True)
class KindFigures:
    """The answers of one kind. The end of a queued task counts as a kind, although it is not an HTTP answer."""

    group: Group
    kind: str
    answers: int
    wrong: int
    refused: int
    latency: Latency
    images: int
    latencies_s: tuple[float, ...]  # of right ones, sorted
    stages_s: dict[str, float]  # means, where the answers name stages


@dataclass(frozen=True, slots=True)
class Slice:
    """An interval, in seconds after the first request."""

    start_s: float
    end_s: float

    @property
    def middle_s(self) -> float:
        """Where a plot puts its value, in seconds after the first request."""
        return (self.start_s + self.end_s) / 2


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of HTTP answers by verdict, and of finished images."""

    slice: Slice
    right_per_s: float
    refused_per_s: float
    wrong_per_s: float
    images_per_s: float

    @property
    def requests_per_s(self) -> float:
        """HTTP answers of every verdict, a second."""
        return self.right_per_s + self.refused_per_s + self.wrong_per_s


@dataclass(frozen=True, slots=True)
class StageFigures:
    """Times of one stage in right answers with images: the slowest image of each answer."""

    stage: str
    latency: Latency
    seconds: tuple[float, ...]  # sorted


@dataclass(frozen=True, slots=True)
class DrawnOverTime:
    """Latency of avatars over time: of synchronous requests, or of queued tasks to their end."""

    group: Group
    points: tuple[tuple[float, float], ...]  # arrival, seconds after the first request; latency in seconds
    slices: tuple[tuple[Slice, Latency], ...]


@dataclass(frozen=True, slots=True)
class StatusCount:
    """How many HTTP answers had this status and this verdict."""

    status: int  # HTTP; 0 where no answer came
    verdict: Verdict
    answers: int


@dataclass(frozen=True, slots=True)
class QueueWait:
    """One polled task: when it was accepted, and for how many seconds it waited for a worker."""

    accepted_s: float  # after the first request
    wait_s: float


@dataclass(frozen=True, slots=True)
class Figures:
    """`span_s`: from the first request to the last answer."""

    started: float  # unix seconds
    span_s: float
    requests: int
    wrong: int
    refused: int
    images: int
    kinds: tuple[KindFigures, ...]
    rates: tuple[Rates, ...]
    drawn: tuple[DrawnOverTime, ...]
    statuses: tuple[StatusCount, ...]
    queue_waits: tuple[QueueWait, ...]
    problems: tuple[tuple[str, int], ...]  # descriptions of wrong answers with counts, the most frequent first
    stages: tuple[StageFigures, ...]
    users: Line  # active
    telemetry: Telemetry

    @property
    def requests_per_s(self) -> float:
        """HTTP answers a second over the whole span, status polls included."""
        return self.requests / self.span_s

    @property
    def images_per_s(self) -> float:
        """Images of right answers a second, over the whole span."""
        return self.images / self.span_s


class NothingMeasuredError(Exception):
    """There was no answer at all."""


def figures_of(answers: Sequence[Answer], counts: Sequence[UserCount] = (), scrapes: Sequence[Scrape] = ()) -> Figures:
    """Raises: NothingMeasuredError."""
    if not answers:
        raise NothingMeasuredError("There was not a single answer.")
    started = min(answer.started for answer in answers)
    span_s = max(max(answer.ended for answer in answers) - started, 0.001)
    return Figures(
        started=started,
        span_s=span_s,
        requests=sum(answer.status is not None for answer in answers),
        wrong=sum(answer.verdict == "wrong" for answer in answers),
        refused=sum(answer.verdict == "refused" for answer in answers),
        images=_images(answers),
        kinds=_kinds(answers),
        rates=_rates(answers, started, span_s),
        drawn=tuple(
            _drawn(group, of_group, started, span_s)
            for group in GROUPS
            if (of_group := [answer for answer in answers if answer.images and answer.group == group])
        ),
        statuses=_statuses(answers),
        queue_waits=tuple(
            QueueWait(answer.started - started, answer.queue_wait_s)
            for answer in answers
            if answer.queue_wait_s is not None
        ),
        problems=tuple(
            Counter(f"{answer.kind}: {answer.problem}" for answer in answers if answer.problem).most_common()
        ),
        stages=_stages(answers),
        users=Line("users", tuple((count.at - started, float(count.users)) for count in counts)),
        telemetry=telemetry_of(scrapes, started),
    )


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Linearly interpolated; None without values."""
    return float(np.percentile(values, percent)) if values else None


def slice_length_s(span_s: float, most: int) -> float:
    """The shortest round length that needs at most that many slices."""
    return next((length for length in SLICES_S if span_s <= length * most), math.ceil(span_s / most))


def sliced(answers: Iterable[Answer], started: float, span_s: float, most: int) -> list[tuple[Slice, list[Answer]]]:
    """Answers by the slice in which they arrived. The last one takes the rest: 0.5 to 1.5 times the usual length."""
    length_s = slice_length_s(span_s, most)
    count = max(1, round(span_s / length_s))
    ends_s = [*(number * length_s for number in range(1, count)), span_s]
    slices = [(Slice(number * length_s, end_s), list[Answer]()) for number, end_s in enumerate(ends_s)]
    for answer in answers:
        slices[min(int((answer.ended - started) / length_s), count - 1)][1].append(answer)
    return slices


def _kinds(answers: Sequence[Answer]) -> tuple[KindFigures, ...]:
    by_kind: defaultdict[tuple[Group, str], list[Answer]] = defaultdict(list)
    for answer in answers:
        by_kind[answer.group, answer.kind].append(answer)
    kinds = [_kind(group, kind, of_kind) for (group, kind), of_kind in by_kind.items()]
    return tuple(sorted(kinds, key=lambda kind: (GROUPS.index(kind.group), not kind.images, kind.kind)))


def _kind(group: Group, kind: str, answers: Sequence[Answer]) -> KindFigures:
    stages: defaultdict[str, list[float]] = defaultdict(list)
    for answer in answers:
        for name, seconds in answer.stages.items():
            stages[name].append(seconds)
    return KindFigures(
        group=group,
        kind=kind,
        answers=len(answers),
        wrong=sum(answer.verdict == "wrong" for answer in answers),
        refused=sum(answer.verdict == "refused" for answer in answers),
        latency=Latency.of(answers),
        images=_images(answers),
        latencies_s=tuple(sorted(answer.latency_s for answer in answers if answer.verdict == "right")),
        stages_s={name: sum(values) / len(values) for name, values in stages.items()},
    )


def _images(answers: Iterable[Answer]) -> int:
    """The images of right answers."""
    return sum(answer.images for answer in answers if answer.verdict == "right")


def _rates(answers: Sequence[Answer], started: float, span_s: float) -> tuple[Rates, ...]:
    rates = []
    for part, came in sliced(answers, started, span_s, RATE_SLICES):
        length_s = part.end_s - part.start_s
        verdicts = Counter(answer.verdict for answer in came if answer.status is not None)
        right, refused, wrong = (verdicts[verdict] / length_s for verdict in get_args(Verdict))
        rates.append(Rates(part, right, refused, wrong, _images(came) / length_s))
    return tuple(rates)


def _stages(answers: Sequence[Answer]) -> tuple[StageFigures, ...]:
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for answer in answers:
        if answer.verdict == "right":
            for stage, value in answer.stages.items():
                seconds[stage].append(value)
    known = [stage for stage in STAGES if stage in seconds]
    return tuple(_stage(stage, sorted(seconds[stage])) for stage in [*known, *sorted(seconds.keys() - set(STAGES))])


def _stage(stage: str, seconds: Sequence[float]) -> StageFigures:
    p50, p95, p99 = (percentile(seconds, percent) for percent in (50, 95, 99))
    return StageFigures(stage, Latency(p50, p95, p99), tuple(seconds))


def _drawn(group: Group, answers: Sequence[Answer], started: float, span_s: float) -> DrawnOverTime:
    return DrawnOverTime(
        group=group,
        points=tuple((answer.ended - started, answer.latency_s) for answer in answers),
        slices=tuple((part, Latency.of(came)) for part, came in sliced(answers, started, span_s, LATENCY_SLICES)),
    )


def _statuses(answers: Sequence[Answer]) -> tuple[StatusCount, ...]:
    counts = Counter((answer.status, answer.verdict) for answer in answers if answer.status is not None)
    return tuple(StatusCount(status, verdict, count) for (status, verdict), count in sorted(counts.items()))

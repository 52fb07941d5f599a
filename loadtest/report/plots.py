"""The plots of a load test: each function turns the figures into one plot of the report."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from loadtest.metrics.figures import DrawnOverTime, Figures, KindFigures, Latency, Slice, StageFigures, percentile
from loadtest.report.plot import AFTER_FIRST, Plot, marked_lines, stepped, time_scales
from loadtest.report.plots_telemetry import telemetry_plots
from loadtest.report.svg import (
    RIGHT,
    ROW,
    WIDTH,
    Linear,
    Logarithmic,
    axes,
    box,
    dot,
    picture,
    polyline,
    round_up,
    row_axes,
    row_height,
    row_left,
    row_middle,
    rule,
    text,
)
from loadtest.report.table import duration

MAX_DOTS = 300  # in one row or plot; more are thinned out evenly
DRAWN = {
    "sync": "Latency while the client waits",
    "queued": "Latency of queued tasks, by polling",
    "events": "Latency of queued tasks, by events",
}
PERCENTILES = {"p50": "p50", "p95": "p95", "p99": "p99"}  # names and styles
STAGES = {"fetch": "c1", "face": "c2", "diffusion": "c3", "finish": "c4", "store": "c5"}
VERDICTS: dict[str, str] = {"right": "right", "refused": "refused", "wrong": "wrong"}

T = TypeVar("T")


def plots(figures: Figures) -> Iterator[Plot]:
    """All plots that the figures have data for."""
    if figures.users.points:
        yield users(figures)
    yield throughput(figures)
    for drawn in figures.drawn:
        yield latency_over_time(figures, drawn)
    if figures.queue_waits:
        yield queue_waits(figures)
    if figures.stages:
        yield stage_latency(figures.stages)
    yield distribution(figures.kinds)
    if staged := [kind for kind in figures.kinds if kind.stages_s]:
        yield stages(staged)
    yield from telemetry_plots(figures.telemetry, figures.span_s)
    yield statuses(figures)


def users(figures: Figures) -> Plot:
    """Active users as a step function. Raises: ValueError where they were never counted."""
    x, y = time_scales(figures.span_s, max(figures.users.values))
    points = stepped([(at, value) for at, value in figures.users.points if 0 <= at <= figures.span_s])

    def marks() -> Iterator[str]:
        yield from axes(x, y, AFTER_FIRST, "users")
        yield from polyline(points, x, y, "c4")

    shows = "at work at the same time; who is told to leave waits for the last answer first"
    return Plot("Users", shows, picture(marks(), "users over time"), {})


def throughput(figures: Figures) -> Plot:
    """Answers stacked by verdict, images as a line."""
    highest = max(max(rates.requests_per_s, rates.images_per_s) for rates in figures.rates)
    x, y = time_scales(figures.span_s, highest)

    def marks() -> Iterator[str]:
        yield from axes(x, y, AFTER_FIRST, "a second")
        for rates in figures.rates:
            parts = {"right": rates.right_per_s, "refused": rates.refused_per_s, "wrong": rates.wrong_per_s}
            yield from _column(x, y, rates.slice, parts)
        yield from marked_lines({"c3": [(rates.slice.middle_s, rates.images_per_s) for rates in figures.rates]}, x, y)

    legend = {"right answers": "right", "refused": "refused", "wrong": "wrong", "finished images": "c3"}
    shows = "every HTTP answer, status polls too; images are of right answers only"
    return Plot("Throughput", shows, picture(marks(), "answers and images a second over time"), legend)


def _column(x: Linear, y: Linear, part: Slice, rates: Mapping[str, float]) -> Iterator[str]:
    """One slice: its rates stacked by style."""
    below = 0.0
    for style, rate in rates.items():
        if rate:
            top, width = y(below + rate), max(x(part.end_s) - x(part.start_s) - 1.5, 0.5)
            yield box(x(part.start_s), top, width, y(below) - top, f"{style} soft", f"{rate:.3g} a second {style}")
        below += rate


def latency_over_time(figures: Figures, drawn: DrawnOverTime) -> Plot:
    """One group of users: a dot for each answer, thinned out to `MAX_DOTS`, and p50, p95 and p99 of each slice."""
    x, y = time_scales(figures.span_s, max(latency_s for _, latency_s in drawn.points))
    lines = {
        "p99": [(part.middle_s, latency.p99_s) for part, latency in drawn.slices],
        "p95": [(part.middle_s, latency.p95_s) for part, latency in drawn.slices],
        "p50": [(part.middle_s, latency.p50_s) for part, latency in drawn.slices],
    }

    def marks() -> Iterator[str]:
        yield from axes(x, y, AFTER_FIRST, "seconds")
        for at_s, latency_s in evenly(drawn.points):
            yield dot(x(at_s), y(latency_s), "faint", duration(latency_s))
        yield from marked_lines(lines, x, y)

    title = DRAWN[drawn.group]
    shows = f"a dot each; the lines are percentiles of slices of {drawn.slices[0][0].end_s:g} s"
    return Plot(title, shows, picture(marks(), f"{title}: percentiles over time"), PERCENTILES)


def distribution(kinds: Sequence[KindFigures]) -> Plot:
    """One row for each kind: a dot an answer, a box from the 25th to the 75th percentile, a tick at the median."""
    measured = [kind for kind in kinds if kind.latencies_s]
    names = _names(measured)
    low = min((kind.latencies_s[0] for kind in measured), default=0.1)
    high = max((kind.latencies_s[-1] for kind in measured), default=1.0)
    x = Logarithmic(min(low, high / 10) / 1.2, high * 1.2, row_left(names), WIDTH - RIGHT)

    def marks() -> Iterator[str]:
        yield from row_axes(names, x, "seconds, logarithmic")
        for index, kind in enumerate(measured):
            yield from _strip(kind, x, row_middle(index))

    svg = picture(marks(), "the distribution of latencies by kind", row_height(names))
    return Plot("Latency by kind", "right answers; box: the middle half; line: the median", svg, {})


def stage_latency(figures: Sequence[StageFigures]) -> Plot:
    """A row for each stage: a dot a value, a box from the median to p95, and ticks at p50, p95 and p99."""
    names = [figure.stage for figure in figures]
    high = max(figure.seconds[-1] for figure in figures)
    low = min(max(figure.seconds[0], high / 1e5) for figure in figures)
    x = Logarithmic(min(low, high / 10) / 1.2, high * 1.2, row_left(names), WIDTH - RIGHT)

    def marks() -> Iterator[str]:
        yield from row_axes(names, x, "seconds, logarithmic")
        for index, figure in enumerate(figures):
            yield from _percentile_row(figure.latency, figure.seconds, x, row_middle(index))

    svg = picture(marks(), "percentiles of the stages", row_height(names))
    return Plot("Latency by stage", "of each answer its slowest image; the box ends at p95", svg, PERCENTILES)


def _percentile_row(latency: Latency, seconds: Sequence[float], x: Logarithmic, middle: float) -> Iterator[str]:
    for value in evenly(seconds):
        yield dot(x(value), middle, "faint", duration(value))
    found = {"p50": latency.p50_s or 0, "p95": latency.p95_s or 0, "p99": latency.p99_s or 0}
    yield box(x(found["p50"]), middle - 7, x(found["p95"]) - x(found["p50"]), 14, "half", "p50 to p95")
    for style, value in found.items():
        yield box(x(value) - 1.5, middle - 8, 3, 16, style, f"{style} {duration(value)}")


def stages(kinds: Sequence[KindFigures]) -> Plot:
    """A bar for each kind: its mean seconds in each stage, stacked in the order of its answers."""
    names = _names(kinds)
    longest_s = max(sum(kind.stages_s.values()) for kind in kinds)
    x = Linear(round_up(longest_s), row_left(names), WIDTH - RIGHT)
    bars = [
        [(STAGES.get(name, "c0"), seconds, f"{name} {duration(seconds)}") for name, seconds in kind.stages_s.items()]
        for kind in kinds
    ]
    svg = _bars(names, bars, x, "seconds, mean")
    shown = dict.fromkeys(name for kind in kinds for name in kind.stages_s)
    legend = {name: STAGES.get(name, "c0") for name in shown}
    return Plot(
        "Where the time goes", "time_required.stages of the answers: of each stage its slowest image", svg, legend
    )


def statuses(figures: Figures) -> Plot:
    """A bar for each HTTP status: its answers stacked by verdict, with their number at its end."""
    codes = sorted({count.status for count in figures.statuses})
    names = [str(code) if code else "no answer" for code in codes]
    bars = [
        [
            (VERDICTS[count.verdict], count.answers, f"{count.answers} {count.verdict}")
            for count in figures.statuses
            if count.status == code
        ]
        for code in codes
    ]
    most = max((sum(answers for _, answers, _ in bar) for bar in bars), default=1)
    x = Linear(round_up(most), row_left(names), WIDTH - RIGHT - 30)  # room for the count
    svg = _bars(names, bars, x, "answers", totals=True)
    seen = {count.verdict for count in figures.statuses}
    legend = {str(verdict): style for verdict, style in VERDICTS.items() if verdict in seen}
    return Plot("Status codes", "every HTTP answer; right is what the request deserved", svg, legend)


def queue_waits(figures: Figures) -> Plot:
    """A dot for each task whose wait is known, at the time it was accepted."""
    waits_s = [wait.wait_s for wait in figures.queue_waits]
    x, y = time_scales(figures.span_s, max(1.0, *waits_s))  # shorter waits are not measured exactly

    def marks() -> Iterator[str]:
        yield from axes(x, y, AFTER_FIRST, "seconds")
        for wait in figures.queue_waits:
            yield dot(x(wait.accepted_s), y(wait.wait_s), "c4", f"{duration(wait.wait_s)}", 3)

    p50, p95 = (duration(percentile(waits_s, percent)) for percent in (50, 95))
    shows = f"from when a task was accepted until a worker began: p50 {p50}, p95 {p95}"
    return Plot("Wait in the queue", shows, picture(marks(), "waits in the queue over time"), {})


def _strip(kind: KindFigures, x: Logarithmic, middle: float) -> Iterator[str]:
    values = kind.latencies_s
    for latency_s in evenly(values):
        yield dot(x(latency_s), middle, "faint", duration(latency_s))
    low, median, high = (percentile(values, percent) or 0 for percent in (25, 50, 75))
    title = (
        f"{kind.kind}: p50 {duration(median)}, p95 {duration(kind.latency.p95_s)}, p99 {duration(kind.latency.p99_s)}"
    )
    yield box(x(low), middle - 7, x(high) - x(low), 14, "half", title)
    yield rule(x(median), middle - 7, x(median), middle + 7, "median")


def _bars(
    names: Sequence[str],
    bars: Sequence[Sequence[tuple[str, float, str]]],
    x: Linear,
    unit: str,
    *,
    totals: bool = False,
) -> str:
    """A row for each name: consecutive segments of (style, length, title)."""

    def marks() -> Iterator[str]:
        yield from row_axes(names, x, unit)
        for index, segments in enumerate(bars):
            total = 0.0
            for style, length, title in segments:
                place = x(total), row_middle(index) - ROW * 0.32
                yield box(*place, x(total + length) - x(total), ROW * 0.64, style, title)
                total += length
            if totals:
                yield text(x(total) + 5, row_middle(index) + 4, f"{total:g}", "start")

    return picture(marks(), f"{unit} by {', '.join(names)}", row_height(names))


def evenly(values: Sequence[T]) -> Sequence[T]:
    """At most MAX_DOTS of them."""
    return values[:: max(1, -(-len(values) // MAX_DOTS))]


def _names(kinds: Sequence[KindFigures]) -> list[str]:
    """The kind, with its group where several groups have it."""
    groups = Counter(kind.kind for kind in kinds)
    return [f"{kind.kind} ({kind.group})" if groups[kind.kind] > 1 else kind.kind for kind in kinds]

"""The plots of the service's own metrics: queue, batched steps, replicas and nodes."""

from collections.abc import Iterator, Sequence

from loadtest.metrics.telemetry import Line, Point, Telemetry
from loadtest.report.plot import AFTER_FIRST, Plot, stepped, time_scales
from loadtest.report.svg import (
    RIGHT,
    WIDTH,
    Linear,
    axes,
    box,
    number,
    picture,
    polyline,
    row_axes,
    row_height,
    row_left,
    row_middle,
    text,
)

QUEUE = {"waiting": "c2", "running": "c1"}
ROWS = {"unfinished": "c1", "a step": "c3"}
SHADES = 4  # of lanes: 0, 1, 2, and more replicas
MIN_LABEL = 12.0  # minimum width of a labelled segment, pixels


def telemetry_plots(telemetry: Telemetry, span_s: float) -> Iterator[Plot]:
    """All plots that the service exported data for."""
    if telemetry.queue:
        shows = "queued tasks that wait for a worker, and those at work"
        yield over_time("Queue", shows, "tasks", telemetry.queue, QUEUE, span_s)
    if telemetry.rows:
        shows = "images in the generators, waiting or being drawn; and the mean number that shared a denoising step"
        yield over_time("Images at once", shows, "images", telemetry.rows, ROWS, span_s)
    if telemetry.replicas:
        yield lanes(telemetry, span_s)


def over_time(title: str, shows: str, unit: str, lines: Sequence[Line], styles: dict[str, str], span_s: float) -> Plot:
    """The lines as step functions, on one axis in `unit`; `styles` maps the name of each line to a CSS class."""
    x, y = time_scales(span_s, max((value for line in lines for value in line.values), default=1.0))

    def marks() -> Iterator[str]:
        yield from axes(x, y, AFTER_FIRST, unit)
        for line in lines:
            points = within(line.points, span_s)
            yield from polyline(stepped(points), x, y, styles[line.name])

    legend = {line.name: styles[line.name] for line in lines}
    return Plot(title, shows, picture(marks(), f"{title} over time"), legend)


def lanes(telemetry: Telemetry, span_s: float) -> Plot:
    """A lane for each deployment and one for the nodes; darker with more replicas."""
    lines = telemetry.replicas
    names = [line.name for line in lines]
    x = Linear(span_s, row_left(names), WIDTH - RIGHT)

    def marks() -> Iterator[str]:
        yield from row_axes(names, x, AFTER_FIRST)
        for index, line in enumerate(lines):
            yield from _lane(line, x, row_middle(index), span_s)

    svg = picture(marks(), "replicas and nodes over time", row_height(names))
    return Plot("Replicas and nodes", "running replicas of each deployment; nodes that answer", svg, {})


def _lane(line: Line, x: Linear, middle: float, span_s: float) -> Iterator[str]:
    for begin_s, end_s, value in runs(within(line.points, span_s), span_s):
        if value is None:
            continue
        left, width = x(begin_s), x(end_s) - x(begin_s)
        shade = f"shade{min(round(value), SHADES - 1)}"
        yield box(left, middle - 8, width, 16, shade, f"{number(value)} from {begin_s:.0f} s to {end_s:.0f} s")
        if width >= MIN_LABEL:
            yield text(left + width / 2, middle + 4, number(value), "middle", f"on-{shade}")


def within(points: Sequence[Point], span_s: float) -> list[Point]:
    """The points from the first request on, up to `span_s` seconds after it."""
    return [(at, value) for at, value in points if 0 <= at <= span_s]


def runs(points: Sequence[Point], span_s: float) -> Iterator[tuple[float, float, float | None]]:
    """Intervals (begin, end, value) of constant value; the last one lasts until the end."""
    begin_s, current = points[0] if points else (0.0, None)
    for at, value in points[1:]:
        if value != current:
            yield begin_s, at, current
            begin_s, current = at, value
    yield begin_s, span_s, current

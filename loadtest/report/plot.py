"""Building blocks of the plots over time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape

from loadtest.report.svg import BOTTOM, HEIGHT, RIGHT, TOP, WIDTH, Linear, Points, Scale, dot, polyline, round_up

LEFT = 40
AFTER_FIRST = "seconds after the first request"


@dataclass(frozen=True, slots=True)
class Plot:
    """One figure of the report: `svg`, under a title and what it shows; `legend` from names to styles."""

    title: str
    shows: str
    svg: str
    legend: Mapping[str, str]


def legend_of(plot: Plot) -> str:
    """HTML."""
    return "".join(f'<span><i class="key {style}"></i>{escape(name)}</span>' for name, style in plot.legend.items())


def time_scales(span_s: float, highest: float) -> tuple[Linear, Linear]:
    """(x, y): from 0 to `span_s` seconds, and from 0 to the next round number above `highest`."""
    return Linear(span_s, LEFT, WIDTH - RIGHT), Linear(round_up(highest), HEIGHT - BOTTOM, TOP)


def marked_lines(lines: Mapping[str, Points], x: Scale, y: Scale) -> Iterator[str]:
    """Lines by style with marked points: a single point has no line."""
    for style, points in lines.items():
        yield from polyline(points, x, y, style)
        for at, value in points:
            if value is not None:
                yield dot(x(at), y(value), style, f"{value:.3g}")


def stepped(points: Points) -> Points:
    """The points as a step function."""
    corners: list[tuple[float, float | None]] = []
    for at, value in points:
        if corners:
            corners.append((at, corners[-1][1]))
        corners.append((at, value))
    return corners

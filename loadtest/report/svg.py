"""Plots as SVG: axes, marks and scales. Colours are CSS classes, for light and dark pages."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

WIDTH = 400
HEIGHT = 200
TOP, RIGHT, BOTTOM = 12, 14, 34
ROW = 26  # height of a row
CHAR = 7.3  # approximate width of a wide character

Points = Sequence[tuple[float, float | None]]  # None breaks a line


class Scale(Protocol):
    """Maps values to coordinates along one axis."""

    def __call__(self, value: float) -> float:
        """The coordinate of a value, in SVG units."""
        ...

    def ticks(self) -> list[float]:
        """The values that get a grid line and a number, ascending."""
        ...


@dataclass(frozen=True, slots=True)
class Linear:
    """From 0 to `high`, between two coordinates."""

    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        """The coordinate of a value; outside the axis where the value is not within 0 to `high`."""
        return self.first + value / self.high * (self.last - self.first)

    def ticks(self) -> list[float]:
        """About five round values."""
        rough = self.high / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        return [number * step for number in range(math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True, slots=True)
class Logarithmic:
    """From `low`, which is above 0, to `high`, between two coordinates."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        """The coordinate of a value; what is below `low`, such as 0, is drawn at `low`."""
        part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return self.first + part * (self.last - self.first)

    def ticks(self) -> list[float]:
        """The powers of ten."""
        exponents = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
        return [10.0**exponent for exponent in exponents]


def round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten, for the end of an axis."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if factor * power >= value * 0.999)


def number(value: float) -> str:
    """A short axis label."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def picture(marks: Iterator[str], label: str, height: float = HEIGHT) -> str:
    """The `<svg>` element around some marks, `WIDTH` x `height` units; `label` is for screen readers."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">' + "".join(marks) + "</svg>"
    )


def text(x: float, y: float, words: str, anchor: str = "middle", style: str = "") -> str:
    """One line of text with its baseline at `y`; `anchor` is start, middle or end: the part of it that is at `x`."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">{escape(words)}</text>'


def rule(x1: float, y1: float, x2: float, y2: float, style: str = "grid") -> str:
    """A straight line from (x1, y1) to (x2, y2), without a tooltip."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def box(x: float, y: float, width: float, height: float, style: str, title: str) -> str:
    """A rectangle with a tooltip."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" class="{style}">'
        f"<title>{escape(title)}</title></rect>"
    )


def dot(x: float, y: float, style: str, title: str, radius: float = 2.5) -> str:
    """A circle with a tooltip; centre and radius in SVG units."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="dot {style}"><title>{escape(title)}</title></circle>'


def polyline(points: Points, x: Scale, y: Scale, style: str) -> Iterator[str]:
    """A line through the points, broken where there is no value."""
    path, down = "", False
    for at, value in points:
        if value is None:
            down = False
            continue
        path += f"{'L' if down else 'M'}{x(at):.1f} {y(value):.1f}"
        down = True
    yield f'<path d="{path}" class="line {style}"/>'


def axes(x: Scale, y: Scale, x_unit: str, y_unit: str) -> Iterator[str]:
    """The grid and the numbers of a plot over time."""
    left, right = x(0), WIDTH - RIGHT
    for tick in y.ticks():
        yield rule(left, y(tick), right, y(tick))
        yield text(left - 5, y(tick) + 4, number(tick), "end")
    for tick in x.ticks():
        yield text(x(tick), HEIGHT - BOTTOM + 15, number(tick))
    yield text(right, HEIGHT - 4, x_unit, "end", "unit")
    yield text(2, HEIGHT - 4, y_unit, "start", "unit")


def row_axes(names: Sequence[str], x: Scale, unit: str) -> Iterator[str]:
    """The grid and the numbers of a plot with a row for each name."""
    bottom = TOP + ROW * len(names)
    for tick in x.ticks():
        yield rule(x(tick), TOP, x(tick), bottom)
        yield text(x(tick), bottom + 15, number(tick))
    yield text(WIDTH - RIGHT, bottom + 30, unit, "end", "unit")
    for index, name in enumerate(names):
        yield text(row_left(names) - 8, row_middle(index) + 4, name, "end")


def row_left(names: Sequence[str]) -> float:
    """Where the names end and the rows begin."""
    return max(map(len, names), default=0) * CHAR + 12


def row_middle(index: int) -> float:
    """The y coordinate of the middle of a row; the topmost one is 0."""
    return TOP + ROW * (index + 0.5)


def row_height(names: Sequence[str]) -> float:
    """The height of the whole plot."""
    return TOP + ROW * len(names) + BOTTOM

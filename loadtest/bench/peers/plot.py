"""The plot of the comparison: cumulative latency distributions for each model."""

from collections.abc import Iterator, Mapping

import numpy as np

from loadtest.bench.peers.load import SERVERS, Measured
from loadtest.report.svg import BOTTOM, HEIGHT, RIGHT, TOP, WIDTH, Linear, Logarithmic, number, polyline, rule, text

LEFT = 38
HEAD = 74  # pixels above a panel
STYLES = dict(zip(SERVERS, ("c0", "c1", "c2", "c3"), strict=True))
STYLE = """<style>
text { font: 11px system-ui, sans-serif; fill: #444 } .title { font-weight: 600; font-size: 13px; fill: #111 }
.grid { stroke: #ddd } .line { fill: none; stroke-width: 2 } .ground { fill: #fff }
.c0 { stroke: #8a94a3 } .c1 { stroke: #c77700 } .c2 { stroke: #8b4fc9 } .c3 { stroke: #14866d; stroke-width: 3 }
text.c0, text.c1, text.c2, text.c3 { stroke: none } text.c0 { fill: #6b7583 } text.c1 { fill: #a86400 }
text.c2 { fill: #7c3fbb } text.c3 { fill: #0f6f5a; font-weight: 600 }
</style>"""


class Panel:
    """One model: `mixed` are the open-loop runs, `saturated` the closed-loop runs that give the throughput."""

    def __init__(self, title: str, mixed: Mapping[str, Measured], saturated: Mapping[str, Measured]) -> None:
        self._title = title
        self._mixed = mixed
        self._saturated = saturated
        latencies_s = [latency_s for measured in mixed.values() for latency_s in measured.latencies_s]
        self._x = Logarithmic(min(latencies_s) / 1.1, max(latencies_s) * 1.1, LEFT, WIDTH - RIGHT)
        self._y = Linear(1, HEIGHT - BOTTOM + HEAD, TOP + HEAD)

    def marks(self) -> Iterator[str]:
        """The SVG elements of the panel, its own top left corner at (0, 0)."""
        yield text(2, 14, self._title, "start", "title")
        yield from self._axes()
        for place, (name, measured) in enumerate(self._mixed.items()):
            ordered = sorted(measured.latencies_s)
            shares = np.arange(1, len(ordered) + 1) / len(ordered)
            yield from polyline(list(zip(ordered, shares.tolist(), strict=True)), self._x, self._y, STYLES[name])
            words = f"{SERVERS[name]}: {self._saturated[name].images_per_s:.2f}/s, p95 {measured.p95_s:.1f} s"
            yield text(2, 30 + 14 * place, words, "start", STYLES[name])

    def _axes(self) -> Iterator[str]:
        x, y, bottom = self._x, self._y, HEIGHT - BOTTOM + HEAD
        for share in (0, 0.25, 0.5, 0.75, 0.95, 1):
            yield rule(LEFT, y(share), WIDTH - RIGHT, y(share))
            if share != 1:  # its label would overlap that of 95
                yield text(LEFT - 5, y(share) + 4, f"{share:.0%}", "end")
        for tick in ticks(x):
            yield rule(x(tick), TOP + HEAD, x(tick), bottom)
            yield text(x(tick), bottom + 15, number(tick))
        yield text(WIDTH - RIGHT, bottom + 30, "seconds to the picture, logarithmic", "end")
        yield text(2, bottom + 30, "of the requests", "start")


def ticks(x: Logarithmic) -> list[float]:
    """1, 2 and 5 times every power of ten in range."""
    powers = range(-3, 4)
    return [factor * 10.0**power for power in powers for factor in (1, 2, 5) if x.low <= factor * 10.0**power <= x.high]


def drawn(panels: list[Panel]) -> str:
    """The panels side by side, in a self-contained SVG."""
    width, height = WIDTH * len(panels) + 20, HEIGHT + HEAD + 10
    parts = "".join(
        f'<g transform="translate({10 + WIDTH * place} 6)">{"".join(panel.marks())}</g>'
        for place, panel in enumerate(panels)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="latencies of the service and its peers">{STYLE}'
        f'<rect class="ground" width="{width}" height="{height}"/>{parts}</svg>\n'
    )

"""What `generator.ageing` does to the mean and the p95 of the latency, in virtual time.

    python -m loadtest.bench.ageing --json ageing.json

The engine's own scheduler gets the same arrivals with each value, on three curves of step times: a GPU's at 512 and at
1024 pixels, as `loadtest.bench.engine` assumes them, and a CPU's, where a step with B images takes B times as long.
Rates are shares of what `@serve.batch` for each step count can do at most. Figures are its latency over the engine's,
so more is better; medians of several seeds. The line "in order" is a value at which who came first goes first.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from loadtest.bench.engine.queues import (
    ASSUMED,
    GENERATOR,
    Arrival,
    Curve,
    Latency,
    Random,
    backlog,
    bursty,
    continuous,
    grouped,
    poisson,
)
from loadtest.bench.peers.painters import STEPS

CPU = Curve.line("cpu", 0.002, 0.0335)  # as the embedded model on two cores: 2.4 images a second
IN_ORDER = 1000.0
AGEING = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, IN_ORDER)
LOADS = (0.7, 0.8, 0.9)

Arrivals = Callable[[int, float, Random], list[Arrival]]
CASES: tuple[tuple[Curve, str, Arrivals], ...] = (
    (ASSUMED[0], "poisson", poisson),
    (ASSUMED[0], "bursty", bursty),
    (ASSUMED[1], "poisson", poisson),
    (CPU, "poisson", partial(poisson, steps=STEPS["cpu"])),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One value on one curve at one load: how many times lower mean and p95 are than those of `@serve.batch`."""

    curve: str
    arrivals: str
    load: float
    ageing: float
    mean: float
    p95: float


def cells(images: int, seeds: int) -> Iterator[Cell]:
    """Every case at every load with every value; `images` a run."""
    for curve, name, arrivals in CASES:
        rate = min(400, images) / max(grouped(backlog(min(400, images), np.random.default_rng(0)), curve))
        for load in LOADS:
            runs = [arrivals(images, load * rate, np.random.default_rng(seed)) for seed in range(seeds)]
            others = [Latency.of(run, grouped(run, curve)) for run in runs]
            for ageing in AGEING:
                ours = [Latency.of(run, continuous(run, curve, ageing)) for run in runs]
                times = Latency.median([other.over(own) for other, own in zip(others, ours, strict=True)])
                yield Cell(curve.name, name, load, ageing, times.mean_s, times.p95_s)


def show(found: Sequence[Cell]) -> Table:
    """A row for each curve and load, a column for each value: mean and p95."""
    heads = ("in order" if value == IN_ORDER else f"{value:g}" for value in AGEING)
    table = Table("curve", "arrivals", "load", *heads, title="mean, p95: times lower than those of @serve.batch")
    for start in range(0, len(found), len(AGEING)):
        row = found[start : start + len(AGEING)]
        figures = (f"{cell.mean:.2f} {cell.p95:.2f}" for cell in row)
        table.add_row(row[0].curve, row[0].arrivals, f"{row[0].load:g}", *figures)
    table.caption = f"the default is {GENERATOR.ageing:g}"
    return table


def main() -> None:
    """Prints the table, and writes the file that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1200, help="of a run")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    found = list(cells(options.images, options.seeds))
    Console(width=140).print(show(found))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(cell) for cell in found], indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The service compared with three simple servers of the same model: one run, one machine, one client.

    python -m loadtest.bench.peers --model 512 --json peers.json --plot peers.svg
    python -m loadtest.bench.engine --styles --json styles.json && python -m loadtest.bench.peers --styles styles.json

FastAPI with a lock, LitServe with its batching, a Ray Serve deployment with @serve.batch, and the service as it ships.
All of them take the same HTTP request with an inline photo, decode it, detect and embed the face, generate with the
same number of threads, and encode a PNG, which the client waits for. Only the service also checks a token, decodes in a
sandboxed process, records the task in Redis, makes a thumbnail, measures the similarity, stores, signs, and serves the
file by a second request, which is included.

`--model cpu` runs the embedded model, with diffusers' pipeline for the peers; `--model 512` replaces the UNet of all by
one that sleeps as long as a GPU takes at 512x512 pixels: (14 + 6 B) ms for B images.

First each server is saturated. Then each gets the same requests at the same times, drawn from one seed, at `--load` of
the throughput of the better of the two servers that batch. They take turns, one after the other, in `--rounds`: the
speed of a machine changes, and all get their share of its moods.

With `--styles` the requests have five styles, each with a LoRA, and none, and steps sleep: the service, whose rows wear
different ones, against a server that activates a style by `set_adapters` before each of its batches, which hold one
style and one step count, and one with a GPU for each style. What LoRAs cost is read from the figures of another
benchmark, and the load is that of the server that swaps.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from loadtest.bench.engine.queues import Arrival, Bar, poisson
from loadtest.bench.peers.load import SERVERS, SERVICE, Measured, command_of
from loadtest.bench.peers.painters import CURVE, SIDES, STEPS
from loadtest.bench.peers.plot import Panel, drawn
from loadtest.bench.peers.rounds import Extent, Server, in_rounds
from loadtest.bench.peers.styles import StyledComparison, compare_styles, costs_of, styles_table
from loadtest.report.setting import Machine

BATCHING = ("litserve", "serve")  # that the bars are for
IN_FLIGHT = 24  # three full batches
VERSIONS = ("face-avatar", "ray", "litserve", "fastapi", "torch", "diffusers")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every server by name, in the closed and in the open loop."""

    model: str
    arrivals_per_s: float
    saturated: Mapping[str, Measured]
    mixed: Mapping[str, Measured]

    @property
    def bars(self) -> list[Bar]:
        """With the sleeping model against those that batch; on the CPU against the best of all."""
        others = BATCHING if self.model == CURVE.name else tuple(name for name in self.saturated if name != SERVICE)
        rate = max(self.saturated[name].images_per_s for name in others)
        p95_s = min(self.mixed[name].p95_s for name in others)
        wanted = (1.2, 2.0) if self.model == CURVE.name else (0.95, 1.0)
        return [
            Bar("throughput over the best", self.saturated[SERVICE].images_per_s / rate, wanted[0]),
            Bar("p95 of the best over ours", p95_s / self.mixed[SERVICE].p95_s, wanted[1]),
        ]


def compare(model: str, extent: Extent, console: Console) -> Comparison:
    """Raises: PeerError."""
    servers = {name: Server(title, partial(command_of, name, model)) for name, title in SERVERS.items()}

    def rounds(per_s: float) -> list[list[Arrival]]:
        return [mix(model, extent, per_s, number) for number in range(extent.rounds)]

    saturated = in_rounds(servers, model, rounds(1), console, IN_FLIGHT)
    per_s = extent.load * max(saturated[name].images_per_s for name in BATCHING)
    return Comparison(model, per_s, saturated, in_rounds(servers, model, rounds(per_s), console))


def mix(model: str, extent: Extent, per_s: float, number: int) -> list[Arrival]:
    """Of one round: the same step counts in the same order for every rate."""
    random = np.random.default_rng((extent.seed, number))
    return poisson(extent.images // extent.rounds, per_s, random, STEPS[model])


def show(comparison: Comparison, extent: Extent, console: Console) -> None:
    """Prints a row for each server, then the bars with the missed ones marked."""
    side, steps = SIDES[comparison.model], ", ".join(map(str, STEPS[comparison.model]))
    table = Table(
        title=f"{comparison.model}: {side} px, steps {steps}; {extent.images} images in {extent.rounds} rounds"
    )
    for column in ("", "images/s", "CPU s an image", "mean, s", "p50, s", "p95, s", "fewest steps, mean, s"):
        table.add_column(column, justify="right" if column else "left")
    for name, title in SERVERS.items():
        saturated, mixed = comparison.saturated[name], comparison.mixed[name]
        latencies = mixed.mean_s, mixed.p50_s, mixed.p95_s, mixed.shortest_s
        rates = saturated.images_per_s, saturated.cpu_s / len(saturated.steps)
        table.add_row(title, *(f"{value:.2f}" for value in (*rates, *latencies)))
    table.caption = (
        f"Throughput saturated, {IN_FLIGHT} in flight; latencies at {comparison.arrivals_per_s:.2f} a second"
    )
    console.print(table)
    for bar in comparison.bars:
        console.print(f"{bar.name}: {bar}{'' if bar.met else ', missed'}")


def panel(comparison: Comparison) -> Panel:
    """The comparison as one panel, titled by its model and arrival rate."""
    title = "GPU-like steps, 512 px" if comparison.model == CURVE.name else "the model in the package, on the CPU"
    return Panel(f"{title}, {comparison.arrivals_per_s:.2f} requests/s", comparison.mixed, comparison.saturated)


def report(comparisons: Sequence[Comparison | StyledComparison], extent: Extent) -> dict[str, object]:
    """All figures as values for JSON, with the machine, its load now, and the versions of the packages."""
    return {
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "machine": asdict(Machine.this()) | {"load_average": os.getloadavg()},
        "versions": {name: version(name) for name in VERSIONS},
        "extent": asdict(extent),
        "comparisons": [
            asdict(comparison) | {"bars": [asdict(bar) | {"met": bar.met} for bar in comparison.bars]}
            for comparison in comparisons
        ],
    }


def main() -> None:
    """Runs the comparisons and writes the files that are asked for. A missed bar does not change the exit code.

    Raises: PeerError.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIDES, action="append", help="both without it")
    parser.add_argument("--images", type=int, default=120, help="of each server in each of the two runs")
    parser.add_argument("--rounds", type=int, default=3, help="in which the servers take turns")
    parser.add_argument("--load", type=float, default=0.8, help="of the throughput of the better batching peer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--styles", type=Path, help="the JSON of `loadtest.bench.engine --styles`: nothing else is done"
    )
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where the picture goes, as SVG")
    options = parser.parse_args()
    extent, console = Extent(options.images, options.rounds, options.load, options.seed), Console(width=120)
    found: Sequence[Comparison | StyledComparison]
    if options.styles is not None:
        found = styles = compare_styles(costs_of(options.styles), extent, console)
        console.print(styles_table(styles, extent))
    else:
        found = comparisons = [compare(model, extent, console) for model in options.model or SIDES]
        for comparison in comparisons:
            show(comparison, extent, console)
        if options.plot is not None:
            options.plot.write_text(drawn([panel(each) for each in comparisons]))
    if options.json is not None:
        options.json.write_text(json.dumps(report(found, extent), indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Requests of several styles over HTTP: this service, whose rows wear a LoRA each, and servers that batch by style."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from loadtest.bench.engine.lora_costs import LoraCosts
from loadtest.bench.engine.queues import Arrival, Bar, poisson
from loadtest.bench.engine.styles import IN_FLIGHT, LOOKS, MIXES, styled
from loadtest.bench.peers.by_style import REPLICAS, SERVERS, SWAPS
from loadtest.bench.peers.load import SERVICE, Measured
from loadtest.bench.peers.painters import CURVE, STEPS
from loadtest.bench.peers.rounds import Extent, Server, in_rounds
from loadtest.bench.peers.styled_service import styled_command

GPUS = {SWAPS: 1, REPLICAS: len(LOOKS), SERVICE: 1}


@dataclass(frozen=True, slots=True)
class StyledComparison:
    """Every server by name, in the closed and in the open loop; `mix` is how often each style is asked for."""

    mix: str
    costs: LoraCosts
    arrivals_per_s: float
    saturated: Mapping[str, Measured]
    mixed: Mapping[str, Measured]

    @property
    def bars(self) -> tuple[Bar, ...]:
        """Against the one GPU that swaps."""
        rate = self.saturated[SERVICE].images_per_s / self.saturated[SWAPS].images_per_s
        p95 = self.mixed[SWAPS].p95_s / self.mixed[SERVICE].p95_s
        return Bar("throughput over set_adapters", rate, 2.0), Bar("p95 of set_adapters over ours", p95, 2.0)


def costs_of(figures: Path) -> LoraCosts:
    """Those in the JSON of `loadtest.bench.engine --styles`. Raises: OSError; ValueError; KeyError."""
    return LoraCosts(**json.loads(figures.read_text())["costs"])


def compare_styles(costs: LoraCosts, extent: Extent, console: Console) -> list[StyledComparison]:
    """A comparison for each mix of styles. Raises: PeerError."""
    servers = {name: Server(title, partial(_by_style, name, costs)) for name, title in SERVERS.items()}
    servers[SERVICE] = Server("this service", partial(styled_command, costs))
    return [_compared(mix, costs, servers, extent, console) for mix in MIXES]


def _compared(
    mix: str, costs: LoraCosts, servers: Mapping[str, Server], extent: Extent, console: Console
) -> StyledComparison:
    def rounds(per_s: float) -> list[list[Arrival]]:
        return [requests(mix, extent, per_s, number) for number in range(extent.rounds)]

    saturated = in_rounds(servers, CURVE.name, rounds(1), console, IN_FLIGHT)
    per_s = extent.load * saturated[SWAPS].images_per_s
    return StyledComparison(mix, costs, per_s, saturated, in_rounds(servers, CURVE.name, rounds(per_s), console))


def requests(mix: str, extent: Extent, per_s: float, number: int) -> list[Arrival]:
    """Of one round: the same step counts and styles in the same order for every rate."""
    random = np.random.default_rng((extent.seed, number))
    arrivals = poisson(extent.images // extent.rounds, per_s, random, STEPS[CURVE.name])
    return styled(arrivals, MIXES[mix], random)


def _by_style(name: str, costs: LoraCosts, port: int, folder: Path) -> list[str]:
    path = folder / "costs.json"
    path.write_text(json.dumps(asdict(costs)))
    return [sys.executable, "-m", "loadtest.bench.peers.by_style", name, "--costs", str(path), "--port", str(port)]


def styles_table(comparisons: Sequence[StyledComparison], extent: Extent) -> Table:
    """A row for each mix and server; missed bars are marked."""
    title = f"styles over HTTP: {extent.images} images in {extent.rounds} rounds, steps as long as a GPU's"
    columns = ("styles", "", "GPUs", "images/s", "of a GPU", "requests/s", "mean, s", "p95, s", "bars")
    table = Table(*columns, title=title)
    for each in comparisons:
        for name, gpus in GPUS.items():
            rate, run = each.saturated[name].images_per_s, each.mixed[name]
            figures = rate, rate / gpus, each.arrivals_per_s, run.mean_s, run.p95_s
            bars = [f"{bar.name} {bar}{'' if bar.met else ', missed'}" for bar in each.bars if name == SERVICE]
            title = SERVERS.get(name, "this service")
            table.add_row(each.mix, title, str(gpus), *(f"{value:.2f}" for value in figures), ", ".join(bars))
    table.caption = f"throughput with {IN_FLIGHT} requests in flight; latencies at the rate beside them"
    return table

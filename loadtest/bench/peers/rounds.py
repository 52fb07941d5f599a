"""Servers that take turns: in each round all of them get the same requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from loadtest.bench.engine.queues import Arrival
from loadtest.bench.peers.load import Command, Measured, measure


@dataclass(frozen=True, slots=True)
class Extent:
    """The extent: `images` of each server under each load, in as many equal rounds."""

    images: int
    rounds: int
    load: float
    seed: int


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is measured, and how it starts."""

    title: str
    command: Command


def in_rounds(
    servers: Mapping[str, Server],
    model: str,
    rounds: Sequence[Sequence[Arrival]],
    console: Console,
    in_flight: int | None = None,
) -> dict[str, Measured]:
    """Every server by name. Results are printed as they arrive: a run takes minutes. Raises: PeerError."""
    found: dict[str, list[Measured]] = {name: [] for name in servers}
    for arrivals in rounds:
        for name, server in servers.items():
            measured = measure(server.command, model, arrivals, in_flight)
            console.print(f"{server.title}: {measured.images_per_s:.2f} images/s, p95 {measured.p95_s:.2f} s")
            found[name].append(measured)
    return {name: Measured.of_rounds(each) for name, each in found.items()}

"""Requests of several styles, each with a LoRA of its own: the engine and three other ways to serve them.

A peer has all LoRAs in memory, and activates one after the other by `set_adapters` between its batches, which hold one
style each; or every style has a GPU of its own, with its LoRA merged. The times of steps are those of a curve, and what
LoRAs add to them is measured on this CPU (`lora_costs`).
"""

import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.table import Table

from loadtest.bench.engine.lora_costs import LoraCosts
from loadtest.bench.engine.queues import (
    ASSUMED,
    Arrival,
    Bar,
    Batches,
    Choice,
    Curve,
    Engine,
    Latency,
    Random,
    Served,
    backlog,
    poisson,
    served,
)

STYLES = ("vector", "comic", "pixel", "clay", "pencil")
LOOKS = (None, *STYLES)
EVEN = (1.0,) * len(LOOKS)
POPULAR = tuple(1 / place for place in range(1, 1 + len(LOOKS)))  # half as many want the second as the first, and so on
MIXES = {"even": EVEN, "first most popular": POPULAR}
CURVE = ASSUMED[0]  # of 512 pixels, where rows are cheap together
IN_FLIGHT = 24  # three full batches, as in `loadtest.bench.peers`
LOADS = (0.5, 0.7, 0.9)
ENGINE, A_REPLICA_A_STYLE = "engine", "a replica a style"
ONE_STYLE = "engine, one style"  # where all requests have the same

Serve = Callable[[Sequence[Arrival], int | None], Served]
"""All arrivals by one GPU, with so many in flight, if it is told."""


@dataclass(frozen=True, slots=True)
class Saturated:
    """Images a second of each server on a GPU, medians over the seeds."""

    mix: str
    requests: str
    images_per_s: Mapping[str, float]
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Light:
    """Latencies of each server, medians over the seeds, at a share of what the best that swaps can draw."""

    mix: str
    load: float
    latency: Mapping[str, Latency]


@dataclass(frozen=True, slots=True)
class Styles:
    """All figures."""

    load_average: tuple[float, float, float]
    costs: LoraCosts
    saturated: list[Saturated]
    light: list[Light]


def by_style_and_steps(arrivals: Sequence[Arrival], curve: Curve) -> Choice:
    """The oldest image, and others of its style and step count."""

    def choose(waiting: Sequence[int], _style: str | None) -> list[int]:
        oldest = arrivals[waiting[0]]
        like = [index for index in waiting if (arrivals[index].style, arrivals[index].steps) == _kind(oldest)]
        return like[: curve.images]

    return choose


def largest_first(arrivals: Sequence[Arrival], curve: Curve) -> Choice:
    """The most images of a style and step count, of equally many those whose style is loaded; others may starve."""

    def choose(waiting: Sequence[int], style: str | None) -> list[int]:
        counts = Counter(_kind(arrivals[index]) for index in waiting)
        kind = max(counts, key=lambda each: (min(counts[each], curve.images), each[0] == style))
        return [index for index in waiting if _kind(arrivals[index]) == kind][: curve.images]

    return choose


def by_style_padded(arrivals: Sequence[Arrival], curve: Curve) -> Choice:
    """The oldest image, and others of its style; all make as many steps as the longest."""

    def choose(waiting: Sequence[int], _style: str | None) -> list[int]:
        style = arrivals[waiting[0]].style
        return [index for index in waiting if arrivals[index].style == style][: curve.images]

    return choose


def of_serve_batch(arrivals: Sequence[Arrival], curve: Curve) -> Choice:
    """As `@serve.batch` and LitServe do, which group nothing: the oldest images, in groups one after the other.

    Those of the style that is loaded come first. Each image leaves with its group, not with the whole batch.
    """
    batch: list[int] = []

    def choose(waiting: Sequence[int], style: str | None) -> list[int]:
        if not batch:
            batch.extend(waiting[: curve.images])
        first = min(batch, key=lambda index: arrivals[index].style != style)
        group = [index for index in batch if _kind(arrivals[index]) == _kind(arrivals[first])]
        batch[:] = [index for index in batch if index not in group]
        return group

    return choose


SWAPPING = {
    "set_adapters in @serve.batch": of_serve_batch,
    "by style and steps": by_style_and_steps,
    "the same, largest first": largest_first,
    "by style, padded": by_style_padded,
}


def servers(costs: LoraCosts, curve: Curve = CURVE) -> dict[str, Serve]:
    """Those that draw all styles on one GPU."""

    def engine(arrivals: Sequence[Arrival], in_flight: int | None) -> Served:
        return served(arrivals, Engine(arrivals, curve, slowdown=costs.slots), in_flight)

    def swapping(choice: Callable[[Sequence[Arrival], Curve], Choice]) -> Serve:
        def serve(arrivals: Sequence[Arrival], in_flight: int | None) -> Served:
            batches = Batches(arrivals, curve, choice(arrivals, curve), costs.adapter, costs.swap_s)
            return served(arrivals, batches, in_flight)

        return serve

    return {ENGINE: engine} | {name: swapping(choice) for name, choice in SWAPPING.items()}


def a_replica_a_style(arrivals: Sequence[Arrival], curve: Curve = CURVE) -> Served:
    """Each style by an engine and a GPU of its own, without slots."""
    latencies_s, ends_s = [0.0] * len(arrivals), [0.0]
    for style in LOOKS:
        own = [index for index, arrival in enumerate(arrivals) if arrival.style == style]
        requests = [arrivals[index] for index in own]
        done = served(requests, Engine(requests, curve))
        ends_s.append(done.end_s)
        for index, latency_s in zip(own, done.latencies_s, strict=True):
            latencies_s[index] = latency_s
    return Served(latencies_s, max(ends_s))


def styled(arrivals: Sequence[Arrival], shares: Sequence[float], random: Random) -> list[Arrival]:
    """With a style each, or none, drawn by these shares."""
    chosen = random.choice(len(LOOKS), len(arrivals), p=np.divide(shares, sum(shares)))
    return [replace(arrival, style=LOOKS[number]) for arrival, number in zip(arrivals, chosen, strict=True)]


def compare(costs: LoraCosts, images: int, seeds: int) -> Styles:
    """Every mix: saturated with a backlog and with some in flight, then at the rates that the best peer can serve."""
    saturated, light = [], []
    for mix, shares in MIXES.items():
        deep = _saturated(costs, mix, images, seeds, None)
        flowing = _saturated(costs, mix, images, seeds, IN_FLIGHT)
        saturated += [deep, flowing]
        peer = max(flowing.images_per_s[name] for name in SWAPPING)
        light += [Light(mix, load, _latencies(costs, shares, load * peer, images, seeds)) for load in LOADS]
    return Styles(os.getloadavg(), costs, saturated, light)


def _saturated(costs: LoraCosts, mix: str, images: int, seeds: int, in_flight: int | None) -> Saturated:
    rates: dict[str, list[float]] = {}
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        arrivals = styled(backlog(images, random), MIXES[mix], random)
        one_style = [replace(arrival, style=STYLES[0]) for arrival in arrivals]
        own = {name: serve(arrivals, in_flight).images_per_s for name, serve in servers(costs).items()}
        own[ONE_STYLE] = servers(costs)[ENGINE](one_style, in_flight).images_per_s
        if in_flight is None:
            many = styled(backlog(images * len(LOOKS), random), MIXES[mix], random)
            own[A_REPLICA_A_STYLE] = a_replica_a_style(many).images_per_s / len(LOOKS)
        for name, rate in own.items():
            rates.setdefault(name, []).append(rate)
    medians = {name: statistics.median(each) for name, each in rates.items()}
    ours, peer = medians[ENGINE], max(medians[name] for name in SWAPPING)
    bars = Bar("of one style alone", ours / medians[ONE_STYLE], 0.9), Bar("times the best peer", ours / peer, 2.0)
    return Saturated(mix, f"{images} at once" if in_flight is None else f"{in_flight} in flight", medians, bars)


def _latencies(costs: LoraCosts, shares: Sequence[float], per_s: float, images: int, seeds: int) -> dict[str, Latency]:
    """At this rate for each GPU: where each style has one, as many times the requests come."""
    found: dict[str, list[Latency]] = {}
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        arrivals = styled(poisson(images, per_s, random), shares, random)
        for name, serve in servers(costs).items():
            found.setdefault(name, []).append(Latency.of(arrivals, serve(arrivals, None).latencies_s))
        many = styled(poisson(images * len(LOOKS), per_s * len(LOOKS), random), shares, random)
        found.setdefault(A_REPLICA_A_STYLE, []).append(Latency.of(many, a_replica_a_style(many).latencies_s))
    return {name: Latency.median(each) for name, each in found.items()}


def tables(styles: Styles) -> Iterator[Table]:
    """Images a second, then latencies; the costs are a caption."""
    costs, names = styles.costs, (ENGINE, *SWAPPING, A_REPLICA_A_STYLE)
    rates = Table("styles", "requests", *names, ONE_STYLE, "bars", title="Saturated, images/s of a GPU")
    for each in styles.saturated:
        numbers = (
            f"{each.images_per_s[name]:.2f}" if name in each.images_per_s else "" for name in (*names, ONE_STYLE)
        )
        bars = ", ".join(f"{bar.name} {bar}{'' if bar.met else ', missed'}" for bar in each.bars)
        rates.add_row(each.mix, each.requests, *numbers, bars)
    rates.caption = (
        f"step times assumed: curve {CURVE.name}; measured here: a step is {costs.slots_same:.2f} times as long where "
        f"all images wear one LoRA, {costs.slots_mixed:.2f} where each wears another, {costs.peft:.2f} with peft's "
        f"layers; set_adapters takes {1000 * costs.swap_s:.0f} ms for {costs.swapped_layers} layers"
    )
    yield rates
    latencies = Table("styles", "load of the best peer", *names, title="Poisson, seconds: mean / p95")
    for light in styles.light:
        pairs = (f"{light.latency[name].mean_s:.2f} / {light.latency[name].p95_s:.2f}" for name in names)
        latencies.add_row(light.mix, f"{light.load}", *pairs)
    latencies.caption = "a replica a style: a GPU for each look, and as many times the requests"
    yield latencies


def _kind(arrival: Arrival) -> tuple[str | None, int]:
    return arrival.style, arrival.steps

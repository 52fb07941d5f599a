"""Continuous batching against three baselines on the same requests, and the engine against diffusers' pipeline.

    python -m loadtest.bench.engine --json engine.json --plot engine.svg
    python -m loadtest.bench.engine --klein
    python -m loadtest.bench.engine --styles

Queues are simulated in virtual time (`queues`) with the step times of a GPU, so a cell is the median of several seeds
with more than a thousand images each. One cell is repeated in real time, by the engine's own thread with a denoiser
that sleeps, and printed next to the simulation of the same arrivals. A load is the arrival rate over the saturated
throughput of the baseline. Decoding takes no time there, for all servers.

FLUX.2 klein is simulated with two curves that are assumed, whatever the others are: requests of four steps, which
hardly ever join others. With `--klein` nothing else is done, nor with `--styles`: requests of five styles, each with a
LoRA, and of none, against a pipeline that swaps LoRAs between its batches, and a GPU for each style (`styles`).

On the CPU, with the embedded model: images a second against the bare pipeline in the same process, how soon a new image
takes its first step, and the overhead of the engine's thread.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from loadtest.bench.engine.live import Embedded, embedded, run
from loadtest.bench.engine.lora_costs import lora_costs
from loadtest.bench.engine.queues import (
    ASSUMED,
    GENERATOR,
    KLEIN,
    MODEL,
    SERVERS,
    Arrival,
    Bar,
    Curve,
    Latency,
    Random,
    SleepingDenoiser,
    backlog,
    bursty,
    continuous,
    grouped,
    poisson,
)
from loadtest.bench.engine.styles import STYLES, Styles, compare, tables
from loadtest.report.svg import BOTTOM, HEIGHT, RIGHT, TOP, WIDTH, Linear, axes, picture, polyline, round_up, text

ENGINE = "engine"
ARRIVALS: dict[str, Callable[[int, float, Random, Sequence[int]], list[Arrival]]] = {
    "poisson": poisson,
    "bursty": bursty,
}
LOADS = (0.5, 0.6, 0.7, 0.8, 0.9)
BASELINES = {"512": "grouped", "1024": "one at a time"}  # the best baseline at that size
AGAINST = {name: (best,) for name, best in BASELINES.items()} | {
    curve.name: ("one at a time", "grouped") for curve in KLEIN
}
NO_WORSE = 0.97
FORM = 'a file with {"512": [seconds of a step with 1 image, 2, ... 8], "1024": [...]}, all with guidance'
STYLE = """<style>
text { font: 11px sans-serif; fill: #444 } .grid { stroke: #ddd } .line { fill: none; stroke-width: 2 }
.c0 { stroke: #1f77b4 } .c1 { stroke: #d62728 } text.c0 { stroke: none; fill: #1f77b4 }
text.c1 { stroke: none; fill: #d62728 } .dashed { stroke-dasharray: 5 3 }
</style>"""


@dataclass(frozen=True, slots=True)
class Extent:
    """The extent of the measurement."""

    images: int  # of a simulated run
    seeds: int
    live_images: int
    live_faster: float  # factor over the assumed times
    embedded_steps: tuple[int, ...]
    embedded_rounds: int
    embedded_images: int
    style_images: int
    style_seeds: int
    style_rounds: int  # of what LoRAs cost


WHOLE = Extent(2000, 7, 100, 1, (8, 20), 3, 40, 500, 3, 5)
QUICK = Extent(60, 1, 12, 4, (2, 3), 1, 4, 30, 1, 1)


@dataclass(frozen=True, slots=True)
class Cell:
    """One load: medians over the seeds, without servers that the load overloads."""

    curve: str
    arrivals: str
    load: float
    against: str
    latency: Mapping[str, Latency]
    bars: tuple[Bar, Bar, Bar]


@dataclass(frozen=True, slots=True)
class Saturation:
    """Saturated throughput in images a second, medians over the seeds."""

    curve: str
    images_per_s: Mapping[str, float]
    bars: tuple[Bar, ...]


def saturate(curve: Curve, extent: Extent) -> Saturation:
    """Every server works off a backlog of at most 400 images, which are all there at the start."""
    images = min(400, extent.images)
    queues = [backlog(images, np.random.default_rng(seed), curve.steps) for seed in range(extent.seeds)]
    rates = {
        name: statistics.median(images / max(server(arrivals, curve)) for arrivals in queues)
        for name, server in SERVERS.items()
    }
    wanted = {"padded": 1.6, "grouped": NO_WORSE} if curve.name == "512" else {}
    if curve in KLEIN:
        wanted = dict.fromkeys(AGAINST[curve.name], NO_WORSE)
    bars = tuple(Bar(f"times {name}", rates[ENGINE] / rates[name], least) for name, least in wanted.items())
    return Saturation(curve.name, rates, bars)


def cells(curve: Curve, saturation: Saturation, extent: Extent) -> Iterator[Cell]:
    """Every kind of arrivals at every load, against each baseline of the curve.

    A bar is on the median, over the seeds, of the ratio within one seed.
    """
    rates = saturation.images_per_s
    for against, (name, arrive) in product(AGAINST[curve.name], ARRIVALS.items()):
        for load in LOADS:
            per_s = load * rates[against]
            able = {server: serve for server, serve in SERVERS.items() if per_s < rates[server]}
            runs: list[dict[str, Latency]] = []
            for seed in range(extent.seeds):
                arrivals = arrive(extent.images, per_s, np.random.default_rng(seed), curve.steps)
                runs.append({server: Latency.of(arrivals, serve(arrivals, curve)) for server, serve in able.items()})
            latency = {server: Latency.median([each[server] for each in runs]) for server in able}
            ratio = Latency.median([each[against].over(each[ENGINE]) for each in runs])
            yield Cell(curve.name, name, load, against, latency, _bars(curve.name, load, ratio))


def _bars(curve: str, load: float, ratio: Latency) -> tuple[Bar, Bar, Bar]:
    if curve not in BASELINES:
        mean = p95 = shortest = NO_WORSE
    elif curve == "512":
        mean, p95, shortest = 1.8, 1.5, 3.5
    else:
        mean, p95, shortest = NO_WORSE, NO_WORSE, 2 if load < 0.7 else 3
    return Bar("mean", ratio.mean_s, mean), Bar("p95", ratio.p95_s, p95), Bar("shortest", ratio.shortest_s, shortest)


@dataclass(frozen=True, slots=True)
class Live:
    """One cell in real time, scaled back to the times of the curve, and its simulation."""

    curve: str
    load: float
    images: int
    engine: Latency
    simulated: Latency
    simulated_late: Latency  # with steps longer by the engine's overhead and the timer's error
    baseline: Latency  # simulated
    join_p95_steps: float
    own_ms: float  # a step
    timer_late_ms: float  # mean of all sleeps


def live(curve: Curve, saturation: Saturation, extent: Extent, load: float = 0.7) -> Live:
    """Runs the engine in real time with Poisson arrivals, and simulates the same arrivals.

    Steps and arrivals are `extent.live_faster` times faster than the curve; the latencies are scaled back.
    """
    faster = curve.faster(extent.live_faster)
    per_s = load * saturation.images_per_s[BASELINES[curve.name]] * extent.live_faster
    arrivals = poisson(extent.live_images, per_s, np.random.default_rng(0))
    denoiser = SleepingDenoiser(faster)
    done = run(denoiser, MODEL, faster.profile(), arrivals, side=512)

    def at_true_speed(latencies_s: Sequence[float]) -> Latency:
        return Latency.of(arrivals, [latency_s * extent.live_faster for latency_s in latencies_s])

    late_s = statistics.fmean(denoiser.late_s)
    return Live(
        curve.name,
        load,
        extent.live_images,
        at_true_speed(done.latencies_s),
        at_true_speed(continuous(arrivals, faster)),
        at_true_speed(continuous(arrivals, faster.slower(late_s + done.own_s))),
        at_true_speed(grouped(arrivals, faster)),
        float(np.percentile(done.joins, 95)),
        done.own_s * 1000,
        late_s * 1000,
    )


@dataclass(frozen=True, slots=True)
class Report:
    """All figures; `load_average` is that of the machine at the end of the run. `assumed` names curves."""

    load_average: tuple[float, float, float]
    torch: str
    saturations: list[Saturation]
    cells: list[Cell]
    assumed: list[str]
    live: Live | None = None
    embedded: Embedded | None = None


def measure(curves: Sequence[Curve], extent: Extent) -> Report:
    """All curves are simulated; the first one is also run in real time."""
    simulated = simulate([*curves, *KLEIN], extent)
    in_real_time = live(curves[0], simulated.saturations[0], extent)
    on_cpu = embedded(extent.embedded_steps, extent.embedded_rounds, extent.embedded_images)
    return replace(simulated, load_average=os.getloadavg(), live=in_real_time, embedded=on_cpu)


def simulate(curves: Sequence[Curve], extent: Extent) -> Report:
    """In virtual time alone."""
    saturations = [saturate(curve, extent) for curve in curves]
    simulated = [cell for curve, rates in zip(curves, saturations, strict=True) for cell in cells(curve, rates, extent)]
    assumed = [curve.name for curve in curves if curve in (*ASSUMED, *KLEIN)]
    return Report(os.getloadavg(), torch.__version__, saturations, simulated, assumed)


def show(report: Report, console: Console) -> None:
    """Prints up to four tables: saturation, latencies, the run in real time, the embedded model."""
    rates = Table("curve", *SERVERS, "bars", "met", title="Saturated, images/s")
    for each in report.saturations:
        numbers = (f"{rate:.2f}" for rate in each.images_per_s.values())
        rates.add_row(each.curve, *numbers, ", ".join(f"{bar.name} {bar}" for bar in each.bars), met(each.bars))
    rates.caption = f"step times assumed, not measured: {', '.join(report.assumed) or 'none'}"
    console.print(rates, latencies(report.cells))
    if report.live is not None:
        console.print(in_real_time(report.live))
    if report.embedded is not None:
        console.print(on_this_cpu(report.embedded))


def latencies(cells: Sequence[Cell]) -> Table:
    """A row for each cell: seconds of both, and the factors; one below its bar is followed by that bar."""
    seconds = ("mean, s", "p95, s", "shortest, s")
    table = Table("curve", "arrivals", "load", "against", *seconds, "times better: mean, p95, shortest", "met")
    table.title = "Latency: the engine / the baseline"
    for cell in cells:
        engine, baseline = astuple(cell.latency[ENGINE]), astuple(cell.latency[cell.against])
        pairs = (f"{ours:.2f} / {theirs:.2f}" for ours, theirs in zip(engine, baseline, strict=True))
        bars = ", ".join(f"{bar.value:.2f}" if bar.met else f"{bar.value:.2f} (< {bar.wanted:g})" for bar in cell.bars)
        table.add_row(cell.curve, cell.arrivals, f"{cell.load}", cell.against, *pairs, bars, met(cell.bars))
    return table


def in_real_time(live: Live) -> Table:
    """Seconds by the curve itself, whatever speed the run had; the engine's overheads are in the caption."""
    title = f"In real time: curve {live.curve}, Poisson, load {live.load}, {live.images} images"
    table = Table("", "mean, s", "p95, s", "shortest, s", title=title)
    rows = {
        "the engine": live.engine,
        "the same, simulated": live.simulated,
        "with late sleeps and own time, simulated": live.simulated_late,
        "baseline, simulated": live.baseline,
    }
    for name, latency in rows.items():
        table.add_row(name, *(f"{value:.3f}" for value in astuple(latency)))
    table.caption = (
        f"first step after {live.join_p95_steps:.2f} steps (p95, with the wait of long requests for short ones); "
        f"the engine's own time {live.own_ms:.2f} ms a step; sleeps are {live.timer_late_ms:.2f} ms late"
    )
    return table


def on_this_cpu(embedded: Embedded) -> Table:
    """A row for the engine and for each batch size of diffusers, then one for each bar."""
    table = Table("", "images/s", "CPU s an image", "engine, times faster", "with less CPU", "met")
    table.title = f"The model of the package on this CPU, {embedded.side} px, steps {embedded.steps}, guidance"
    engine = embedded.engine
    table.add_row("engine, saturated", f"{engine.images_per_s:.2f}", f"{engine.cpu_s:.2f}")
    for batch, drawn in embedded.library.items():
        ratios = drawn.images_per_s, drawn.cpu_s, engine.images_per_s / drawn.images_per_s, drawn.cpu_s / engine.cpu_s
        table.add_row(f"diffusers, {batch} at a time", *(f"{value:.2f}" for value in ratios))
    for bar in embedded.bars:
        table.add_row(f"{bar.name}: {bar}", "", "", "", "", met([bar]))
    return table


def met(bars: Sequence[Bar]) -> str:
    """`yes` where all bars are met, else `no`; empty where there are none."""
    return "" if not bars else "yes" if all(bar.met for bar in bars) else "no"


def plot(cells: Sequence[Cell]) -> str:
    """The engine's improvement factor by load for Stable Diffusion, with Poisson arrivals, as a self-contained SVG."""
    chosen = [cell for cell in cells if cell.arrivals == "poisson" and cell.curve in BASELINES]
    high = round_up(max(bar.value for cell in chosen for bar in cell.bars))
    x, y = Linear(1, 40, WIDTH - RIGHT - 80), Linear(high, HEIGHT - BOTTOM, TOP)

    def marks() -> Iterator[str]:
        yield from axes(x, y, "load", "times better than the baseline")
        for colour, curve in enumerate(dict.fromkeys(cell.curve for cell in chosen)):
            for number, dashes in ((0, ""), (2, " dashed")):
                points = [(cell.load, cell.bars[number].value) for cell in chosen if cell.curve == curve]
                yield from polyline(points, x, y, f"c{colour}{dashes}")
                load, value = points[-1]
                name = chosen[0].bars[number].name
                yield text(x(load) + 4, y(value) + 4, f"{curve}: {name}", "start", f"c{colour}")

    drawn = picture(marks(), "times better than the baseline, by load")
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{2 * HEIGHT}">{STYLE}{drawn}</svg>\n'


def as_json(report: Report | Styles) -> str:
    """All figures, and whether each bar is met."""

    def with_met(items: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(items)
        return values | {"met": Bar(**values).met} if "wanted" in values else values

    return json.dumps(asdict(report, dict_factory=with_met), indent=2) + "\n"


def read_curves(path: Path) -> list[Curve]:
    """Raises: ValueError where a curve lacks a time for some number of images that may share a step."""
    measured = json.loads(path.read_text())
    for name in BASELINES:
        if len(measured[name]) != GENERATOR.max_rows:
            raise ValueError(f"{path}: curve {name} needs {GENERATOR.max_rows} times")
    return [Curve(name, tuple(measured[name])) for name in BASELINES]


def main() -> None:
    """Prints the tables and writes the files that are asked for. A missed bar does not change the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where an SVG goes")
    parser.add_argument("--curves", type=Path, help="measured step times instead of the assumed ones; " + FORM)
    parser.add_argument("--klein", action="store_true", help="simulate FLUX.2 klein, and no more")
    parser.add_argument("--styles", action="store_true", help="simulate requests of several styles, and no more")
    parser.add_argument("--quick", action="store_true", help="too few images to mean anything")
    options = parser.parse_args()
    if (options.klein or options.styles) and (options.plot or options.curves):
        parser.error("--klein and --styles are simulated with assumed curves, and not drawn")
    console, extent = Console(width=140), QUICK if options.quick else WHOLE
    if options.styles:
        styles = compare(lora_costs(STYLES, extent.style_rounds), extent.style_images, extent.style_seeds)
        console.print(*tables(styles))
        if options.json:
            options.json.write_text(as_json(styles))
        return
    curves = read_curves(options.curves) if options.curves else ASSUMED
    report = simulate(KLEIN, extent) if options.klein else measure(curves, extent)
    show(report, console)
    if options.json:
        options.json.write_text(as_json(report))
    if options.plot:
        options.plot.write_text(plot(report.cells))


if __name__ == "__main__":
    main()

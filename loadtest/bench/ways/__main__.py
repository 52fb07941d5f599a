"""Processor time that each way into the service takes itself, beside the service's own work.

    python -m loadtest.bench.ways --json ways.json

An ingress in this process, on a Valkey server, with a stub for its stages, gets requests as JSON, as a form, as the API
of OpenAI has them, and from an agent (MCP), whose avatars a worker in another process makes. A way's own time is the
processor time of a request, less base64 and reads of the store, and less that of the same without this way: as a call
of the service without HTTP; for an agent as the three requests that queue a task, follow it and fetch the thumbnail.
Other programs on the machine change it little. Bar: at most 3 ms for each.
"""

import argparse
import asyncio
import cProfile
import json
import multiprocessing
import pstats
import socket
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from loadtest.bench.ways.stub import serve_photo, stub_service, work_in_process
from loadtest.bench.ways.ways import Way, Work, ways_of
from serve_app.backends.embedded_valkey import ValkeyServer
from serve_app.backends.redis import own_url
from serve_app.launcher import free_port

MOST_MS = 3.0
READY_S = 60
PROFILED = 25  # lines


@dataclass(frozen=True, slots=True)
class Figures:
    """Processor time of one request, ms: medians of the rounds."""

    way: str
    request_ms: float
    without_ms: float
    data_ms: float
    own_ms: float


async def cpu_ms(work: Work, requests: int) -> float:
    """Processor time of this process for one of so many, one after the other."""
    before = time.process_time()
    for _ in range(requests):
        await work()
    return 1000 * (time.process_time() - before) / requests


async def measured(ways: Sequence[Way], rounds: int, requests: int) -> list[Figures]:
    """All ways in turn, so that whatever the machine does meets each alike; the first round only warms up."""
    taken: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for number in range(rounds + 1):
        for way in ways:
            parts = [await cpu_ms(work, requests) for work in (way.request, way.without, way.data)]
            if number:
                taken[way.name].append((parts[0], parts[1], parts[2]))
    return [_figures(name, found) for name, found in taken.items()]


def _figures(way: str, rounds: Sequence[tuple[float, float, float]]) -> Figures:
    request, without, data = (statistics.median(parts) for parts in zip(*rounds, strict=True))
    own = statistics.median(whole - same - beside for whole, same, beside in rounds)
    return Figures(way, request, without, data, own)


@contextmanager
def others(data_dir: Path) -> Iterator[str]:
    """A broker, a worker and the server of the photo, each in a process of its own; gives the photo's URL."""
    broker = ValkeyServer(data_dir, "no")
    broker.start()
    spawn, port = multiprocessing.get_context("spawn"), free_port()
    with Redis.from_url(own_url(data_dir)) as client:
        _await(client.ping)
    processes: list[Any] = [
        spawn.Process(target=target, args=args, daemon=True)
        for target, args in ((work_in_process, (data_dir,)), (serve_photo, (port,)))
    ]
    for process in processes:
        process.start()
    try:
        _await(lambda: socket.create_connection(("127.0.0.1", port)).close())
        yield f"http://127.0.0.1:{port}/me.jpg"
    finally:
        for process in processes:
            process.terminate()
            process.join()
        broker.stop()


def _await(answer: Callable[[], object]) -> None:
    """Ask until there is an answer."""
    ends = time.monotonic() + READY_S
    while True:
        try:
            answer()
            return
        except (RedisError, OSError):
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)


async def run(data_dir: Path, photo_url: str, options: argparse.Namespace) -> list[Figures]:
    """The figures of all ways, or with `--profile` where the time of one goes."""
    async with stub_service(data_dir) as stub:
        ways = [way for way in ways_of(stub, photo_url) if options.profile in (None, way.name)]
        for way in ways:
            await way.request()  # the worker and the photo's server are there
        if options.profile is None:
            return await measured(ways, options.rounds, options.requests)
        with cProfile.Profile() as profile:
            await cpu_ms(ways[0].request, options.requests)
        pstats.Stats(profile).sort_stats("cumulative").print_stats(PROFILED)
        return []


def show(found: Sequence[Figures]) -> Table:
    """A row for each way."""
    columns = ("request", "the same without it", "base64, store reads", "the way itself")
    table = Table("way", *columns, f"at most {MOST_MS:g} ms", title="processor time of a request, ms")
    for each in found:
        numbers = (each.request_ms, each.without_ms, each.data_ms, each.own_ms)
        table.add_row(each.way, *(f"{number:.2f}" for number in numbers), "yes" if each.own_ms <= MOST_MS else "NO")
    return table


def main() -> None:
    """Prints the table. A missed bar does not change the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=40, help="of each way in a round")
    parser.add_argument("--profile", help="a way: where its time goes, instead of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="face-avatar-") as name, others(Path(name)) as photo_url:
        found = asyncio.run(run(Path(name), photo_url, options))
    if options.profile is None:
        Console().print(show(found))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in found], indent=1))


if __name__ == "__main__":
    main()

"""Throughput of one ingress replica for queued requests, and its bottleneck.

    python -m loadtest.bench.ingress --json ingress.json

A service with one ingress and no worker accepts queued requests as fast as it can: token, body, photo (as a data URL,
or fetched from a server on this machine), decoding, the stored photo, the record, the message. The clients share its
processors, so the table shows the CPU time of each process.
"""

import argparse
import asyncio
import base64
import io
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image
from rich.console import Console
from rich.table import Table

from loadtest.bench.photo_handler import handler_of
from loadtest.bench.processes import cpu_s
from loadtest.load.own_service import own_service, photo_server
from serve_app.launcher import RunningService
from serve_app.photos.sample import sample_photo

CLIENTS = 16  # at once
WARM_UP_S = 3
SIDES = (320, 1536)  # of the photo, pixels


@dataclass(frozen=True, slots=True)
class Figures:
    """One kind of photo; latencies from sending a request to its 202."""

    photo: str
    photo_kb: float
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    cpu_ms: dict[str, float]  # of one request, by process


def one_ingress(application: dict[str, Any]) -> None:
    """At most one ingress replica, and no worker that empties the queue."""
    application["args"] |= {"fetch": {"allow_private": True}, "queue": {"max_tasks": 1_000_000}}
    for deployment in application["deployments"]:
        deployment["ray_actor_options"]["num_cpus"] = 0.1
        if deployment["name"] == "AvatarIngress":
            deployment["autoscaling_config"]["max_replicas"] = 1
        if deployment["name"] == "AvatarWorker":
            deployment["autoscaling_config"] |= {"min_replicas": 0, "initial_replicas": 0}


def photo(side: int) -> bytes:
    """A JPEG of the sample photo, `side` x `side` pixels."""
    file = io.BytesIO()
    Image.open(sample_photo()).convert("RGB").resize((side, side)).save(file, "JPEG", quality=90)
    return file.getvalue()


async def send(running: RunningService, file_url: str, seconds: float) -> list[float]:
    """Seconds of each request, from concurrent clients. Raises: RuntimeError where one is not accepted."""
    headers = {"Authorization": f"Bearer {running.token}", "Content-Type": "application/json"}
    body = json.dumps({"app_id": "face-avatar", "file_url": file_url, "celery": True}).encode()
    took_s: list[float] = []
    ends_at = time.perf_counter() + seconds

    async def again_and_again(session: aiohttp.ClientSession) -> None:
        while (started := time.perf_counter()) < ends_at:
            async with session.post(f"{running.url}/getImageToImage", data=body) as answer:
                text = await answer.text()
            if answer.status != 202:
                raise RuntimeError(f"{answer.status}: {text}")
            took_s.append(time.perf_counter() - started)

    async with aiohttp.ClientSession(headers=headers) as session:
        await asyncio.gather(*(again_and_again(session) for _ in range(CLIENTS)))
    return took_s


def measure(running: RunningService, name: str, file_url: str, size: int, seconds: float) -> Figures:
    """Figures of `seconds` under load, after a warm-up; `size` is that of the photo in bytes.

    Raises: RuntimeError where a request is not accepted.
    """
    asyncio.run(send(running, file_url, WARM_UP_S))
    before, own, started = cpu_s(), time.process_time(), time.perf_counter()
    took_s = asyncio.run(send(running, file_url, seconds))
    elapsed_s = time.perf_counter() - started
    used_s = {**(cpu_s() - before), "clients": time.process_time() - own}
    ms = {kind: 1000 * used_s[kind] / len(took_s) for kind in sorted(used_s, key=used_s.__getitem__, reverse=True)}
    p50_s, p95_s = (statistics.quantiles(took_s, n=20)[index] for index in (9, 18))
    return Figures(name, size / 1000, len(took_s) / elapsed_s, 1000 * p50_s, 1000 * p95_s, ms)


def measure_all(seconds: float) -> list[Figures]:
    """Photos of both sizes, inline and fetched, one after the other on the same service."""
    found = []
    with own_service(one_ingress) as running:
        for side in SIDES:
            data = photo(side)
            inline = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
            with photo_server(handler_of(data)) as url:
                for kind, file_url in (("data URL", inline), ("fetched", url)):
                    title = f"{side} px, {kind}"
                    found.append(measure(running, title, file_url, len(data), seconds))
    return found


def show(found: list[Figures]) -> Table:
    """A row for each kind of photo, without processes that take less than 0.1 ms of a request."""
    table = Table("photo", "kB", "requests/s", "p50, ms", "p95, ms", "processor, ms a request")
    for each in found:
        used = ", ".join(f"{kind} {ms:.1f}" for kind, ms in each.cpu_ms.items() if ms >= 0.1)
        numbers: list[Any] = [each.photo_kb, each.requests_per_s, each.p50_ms, each.p95_ms]
        table.add_row(each.photo, *(f"{number:.0f}" for number in numbers), used)
    return table


def main() -> None:
    """Prints the table; `--json` has the processes that it leaves out too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--seconds", type=float, default=15, help="of each kind of photo")
    options = parser.parse_args()
    found = measure_all(options.seconds)
    Console().print(show(found))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in found], indent=1))


if __name__ == "__main__":
    main()

"""Minutes of three times the sustainable load: how clients are answered, and whether memory stays flat.

    python -m loadtest.bench.overload --minutes 5 --json overload.json

A service with the embedded models. First a closed loop of a few clients measures its capacity; then requests arrive in
an open loop at three times that rate, half of them queued. Every answer has to be 200 or 202, or a 503 with
Retry-After. Memory is the private memory of a process, its mean over the second fifth of the time compared with that
over the last.
"""

import argparse
import asyncio
import base64
import io
import itertools
import json
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image
from rich.console import Console
from rich.table import Table

from loadtest.bench.processes import MemorySamples
from loadtest.load.own_service import own_service
from serve_app.launcher import RunningService
from serve_app.photos.sample import sample_photo

FACTOR = 3.0
CAPACITY_CLIENTS = 12  # more than the concurrency limit
SAMPLE_EVERY_S = 2.0
MAX_TASKS = 200  # in the queue: filled within the first minute, so that it is full for the rest
MOST_GROWTH = 1.05
LEAST_MB = 20.0  # smaller processes are not judged: single pages would count as growth
PATIENCE_S = 180.0
REQUEST: dict[str, Any] = {"app_id": "face-avatar", "width": 256, "height": 256, "num_inference_steps": 4}


@dataclass(slots=True)
class Answers:
    """Counts by status, and answers that no client should get."""

    statuses: dict[str, int] = field(default_factory=dict)  # a Counter does not survive asdict
    wrong: list[str] = field(default_factory=list)

    def take(self, status: int, headers: Any, text: str) -> None:
        """Counts an answer; wrong is all but 200, 202, and a 503 that says after how many seconds to retry."""
        self.statuses[str(status)] = self.statuses.get(str(status), 0) + 1
        if status not in (200, 202) and not (status == 503 and headers.get("Retry-After", "").isdigit()):
            self.wrong.append(f"{status}: {text[:300]}")


@dataclass(frozen=True, slots=True)
class Growth:
    """Mean private memory of one process early and late in the overload."""

    process: str
    early_mb: float
    late_mb: float

    @property
    def ratio(self) -> float:
        """Late over early: 1 where the memory stayed flat."""
        return self.late_mb / self.early_mb


@dataclass(slots=True)
class Overload:
    """The figures of one run; `memory` has the largest process first."""

    capacity_per_s: float  # requests, in a closed loop
    offered_per_s: float
    seconds: float
    answers: Answers
    memory: list[Growth]

    @property
    def met(self) -> bool:
        """Whether no answer was wrong, and no process grew beyond `MOST_GROWTH`."""
        return not self.answers.wrong and all(each.ratio <= MOST_GROWTH for each in self.memory)


def growths(memory: MemorySamples, seconds: float) -> list[Growth]:
    """Memory of each process that ran the whole time, the largest first."""
    found = []
    for (kind, _), samples in memory.samples.items():
        early = [mb for at, mb in samples if 0.2 * seconds <= at < 0.4 * seconds]
        late = [mb for at, mb in samples if 0.8 * seconds <= at <= seconds]
        if early and late and statistics.mean(late) >= LEAST_MB:
            found.append(Growth(kind, statistics.mean(early), statistics.mean(late)))
    return sorted(found, key=lambda growth: -growth.late_mb)


class Clients:
    """Requests with the sample photo inline, on the connections of one session."""

    def __init__(self, running: RunningService, session: aiohttp.ClientSession) -> None:
        self._url = f"{running.url}/getImageToImage"
        self._session = session
        file = io.BytesIO()
        Image.open(sample_photo()).convert("RGB").resize((320, 320)).save(file, "JPEG")
        self._photo = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"

    async def send(self, answers: Answers, queued: bool) -> None:
        """One request, recorded in `answers`; a broken connection and a timeout count as wrong."""
        body = {**REQUEST, "file_url": self._photo, "celery": queued}
        try:
            async with self._session.post(self._url, json=body) as answer:
                answers.take(answer.status, answer.headers, await answer.text())
        except (aiohttp.ClientError, TimeoutError) as error:
            answers.wrong.append(repr(error))

    async def capacity(self, seconds: float) -> float:
        """Requests answered with 200 a second, in a closed loop."""
        answers, ends_at = Answers(), time.monotonic() + seconds

        async def again_and_again() -> None:
            while time.monotonic() < ends_at:
                await self.send(answers, queued=False)

        await self.send(Answers(), queued=False)  # the first one is slower
        started = time.monotonic()
        await asyncio.gather(*(again_and_again() for _ in range(CAPACITY_CLIENTS)))
        return answers.statuses.get("200", 0) / (time.monotonic() - started)

    async def overload(self, per_s: float, seconds: float) -> Answers:
        """An open loop at a fixed rate."""
        answers, started = Answers(), time.monotonic()
        async with asyncio.TaskGroup() as sending:
            for number in itertools.count():
                due_s = number / per_s
                if due_s > seconds:
                    break
                await asyncio.sleep(max(0.0, started + due_s - time.monotonic()))
                sending.create_task(self.send(answers, queued=number % 2 == 1))
        return answers


def short_queue(application: dict[str, Any]) -> None:
    """Edits the config of the application in place: `MAX_TASKS` in the queue."""
    application["args"]["queue"]["max_tasks"] = MAX_TASKS


async def run(running: RunningService, seconds: float, capacity_s: float) -> Overload:
    """Measures the capacity for `capacity_s` seconds, then overloads the service for `seconds`."""
    headers = {"Authorization": f"Bearer {running.token}"}
    timeout, connections = aiohttp.ClientTimeout(PATIENCE_S), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connections) as session:
        clients = Clients(running, session)
        capacity_per_s = await clients.capacity(capacity_s)
        memory = MemorySamples(SAMPLE_EVERY_S)
        with memory.watched():
            answers = await clients.overload(FACTOR * capacity_per_s, seconds)
        return Overload(capacity_per_s, FACTOR * capacity_per_s, seconds, answers, growths(memory, seconds))


def measure(seconds: float, capacity_s: float = 20) -> Overload:
    """Starts a service with a short queue, measures it as `run` does, and stops it."""
    with own_service(short_queue) as running:
        return asyncio.run(run(running, seconds, capacity_s))


def show(found: Overload) -> Table:
    """Counts of answers on the left, the memory of each process on the right; a row does not connect them."""
    title = f"{found.offered_per_s:.1f} requests/s for {found.seconds:.0f} s; it can do {found.capacity_per_s:.1f}"
    table = Table("answers", "process", "early, MB", "late, MB", "late / early", title=title)
    answers = [f"{status}: {count}" for status, count in sorted(found.answers.statuses.items())]
    answers += [f"wrong: {len(found.answers.wrong)}", *found.answers.wrong[:3]]
    memory = [
        (each.process, f"{each.early_mb:.0f}", f"{each.late_mb:.0f}", f"{each.ratio:.3f}") for each in found.memory
    ]
    for answer, row in itertools.zip_longest(answers, memory, fillvalue=""):
        table.add_row(str(answer), *(row or ("", "", "", "")))
    return table


def main() -> int:
    """The exit code: 1 where an answer was wrong, or a process grew beyond `MOST_GROWTH`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--minutes", type=float, default=5)
    options = parser.parse_args()
    found = measure(60 * options.minutes)
    Console().print(show(found))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(found), indent=1))
    return 0 if found.met else 1


if __name__ == "__main__":
    raise SystemExit(main())

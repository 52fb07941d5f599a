"""Two tokens on one service, one of them flooding it: how much longer the other one waits for its avatars.

    python -m loadtest.bench.tokens --json tokens.json

The modest token requests one small avatar after another. The greedy one, in runs that alternate with quiet ones, sends
as fast as its connections allow, ignoring the answers: synchronous requests, queued ones, polls of tasks. Requests
within its limits (by default 6 requests a minute, one image at once) are served. The stage times of the modest token's
answers show where it waited longer; `rest` is what no stage counts: HTTP, admission, Redis, hand-over between stages.
The service is the embedded one; the flood comes from a separate process with the lowest priority, because on a small
machine it shares the processors with the service.
"""

import argparse
import base64
import contextlib
import io
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

from loadtest.bench.engine.queues import Bar
from loadtest.load.beside import beside
from loadtest.load.own_service import own_service
from serve_app.cli.root import cli
from serve_app.photos.sample import sample_photo

CONNECTIONS = 8  # of the greedy token
SIDE = 256  # pixels
STEPS = 4
PAUSE_S = 0.3  # of the modest token between two requests
WARM_UP = 3
MOST = 1.2  # times its p95 without the other
TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds of one request and of its stages."""

    latency_s: float
    stages_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Run:
    """The modest token's latencies, and the greedy one's answers by HTTP status."""

    latencies_s: tuple[float, ...]
    stages_s: dict[str, float]  # medians
    flood: dict[str, int]

    @classmethod
    def of(cls, answers: Sequence[Answer], flood: Mapping[str, int]) -> "Run":
        """`answers` are those of the modest token, at least one; all have the same stages."""
        stages = {name: statistics.median(each.stages_s[name] for each in answers) for name in answers[0].stages_s}
        return cls(tuple(each.latency_s for each in answers), stages, dict(flood))

    @property
    def p95_s(self) -> float:
        """95th percentile of the modest token's latency, in seconds."""
        return float(np.percentile(self.latencies_s, 95))


@dataclass(frozen=True, slots=True)
class Pair:
    """The two runs of a round, one right after the other."""

    quiet: Run
    flooded: Run

    @property
    def growth(self) -> float:
        """How many times its quiet p95 the modest token waits beside the flood."""
        return self.flooded.p95_s / self.quiet.p95_s


@dataclass(frozen=True, slots=True)
class Client:
    """For one token."""

    url: str
    token: str
    photo: str

    def open(self) -> httpx.Client:
        """A connection pool that sends the token; the caller closes it."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def body(self, **fields: object) -> dict[str, object]:
        """A request for one small avatar; `fields` add to it or override it."""
        asked = {"width": SIDE, "height": SIDE, "num_inference_steps": STEPS, **fields}
        return {"app_id": "face-avatar", "file_url": self.photo, **asked}


def photo() -> str:
    """The sample as a JPEG of some 54 kB, in a data URL."""
    out = io.BytesIO()
    Image.open(sample_photo()).convert("RGB").save(out, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def modest_answers(client: Client, seconds: float) -> list[Answer]:
    """Sequential requests for `seconds`."""
    answers, ends = [], time.perf_counter() + seconds
    with client.open() as http:
        while time.perf_counter() < ends:
            began = time.perf_counter()
            answer = http.post("/getImageToImage", json=client.body()).raise_for_status()
            latency_s = time.perf_counter() - began
            stages: dict[str, float] = answer.json()["time_required"]["stages"]
            answers.append(Answer(latency_s, stages | {"rest": latency_s - sum(stages.values())}))
            time.sleep(PAUSE_S)
    return answers


def flood(client: Client, begun: Event, ended: Event) -> Counter[str]:
    """Sends on all connections until `ended`; returns the answers by status."""
    begun.set()  # the imports are done, which use more CPU than the flood
    counted: Counter[str] = Counter()

    def ask(number: int) -> None:
        with client.open() as http:
            while not ended.is_set():
                with contextlib.suppress(httpx.HTTPError):
                    if number % 4 == 3:
                        answer = http.get("/api/v1/tasks/unknown")
                    else:
                        answer = http.post("/getImageToImage", json=client.body(celery=number % 4 == 2))
                    counted[str(answer.status_code)] += 1

    threads = [threading.Thread(target=ask, args=[number]) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counted


def new_token(data_dir: Path, name: str, **limits: int) -> str:
    """Creates a token on a running service by the CLI's command; `limits` are its options. Raises: RuntimeError."""
    options = [part for limit, value in limits.items() for part in (f"--{limit}", str(value))]
    result = CliRunner().invoke(cli, ["token", "create", name, "--data-dir", str(data_dir), *options])
    if result.exit_code != 0:
        raise RuntimeError(result.output)
    return result.output.strip()


def measure(rounds: int, seconds: float, **limits: int) -> list[Pair]:
    """`limits` are the greedy token's."""
    pairs = []
    with own_service() as running:
        modest = Client(running.url, new_token(running.data_dir, "modest", rate=600), photo())
        greedy = Client(running.url, new_token(running.data_dir, "greedy", **limits), photo())
        with modest.open() as http:
            for _ in range(WARM_UP):
                http.post("/getImageToImage", json=modest.body()).raise_for_status()
        for _ in range(rounds):
            quiet = Run.of(modest_answers(modest, seconds), {})
            with beside(flood, greedy, patience_s=2 * TIMEOUT_S) as counted:
                answers = modest_answers(modest, seconds)
            pairs.append(Pair(quiet, Run.of(answers, counted)))
    return pairs


def stages_table(pairs: Sequence[Pair]) -> Table:
    """Of each stage the median over the rounds, in milliseconds, without the flood and with it."""
    table = Table("stage", "without, ms", "with, ms", title="medians of all rounds")
    for name in pairs[0].quiet.stages_s:
        sides = ([pair.quiet for pair in pairs], [pair.flooded for pair in pairs])
        table.add_row(name, *(f"{1000 * statistics.median(run.stages_s[name] for run in side):.0f}" for side in sides))
    return table


def main() -> None:
    """Prints both tables. A missed bar does not change the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20, help="of each of the two runs of a round")
    parser.add_argument("--rate", type=int, default=6, help="of the greedy token: requests for work a minute")
    parser.add_argument("--images", type=int, default=1, help="of the greedy token: images at once")
    parser.add_argument("--queued", type=int, default=4, help="of the greedy token: queued tasks")
    options = parser.parse_args()
    limits = {"rate": options.rate, "images": options.images, "queued": options.queued}
    pairs = measure(options.rounds, options.seconds, **limits)
    growth = Bar("p95 with / without", statistics.median(pair.growth for pair in pairs), MOST, at_most=True)
    table = Table("round", "p95 without, s", "p95 with, s", "with / without", "the greedy one got")
    for number, pair in enumerate(pairs, 1):
        got = ", ".join(f"{count} x {status}" for status, count in sorted(pair.flooded.flood.items()))
        p95 = [f"{run.p95_s:.2f} of {len(run.latencies_s)}" for run in (pair.quiet, pair.flooded)]
        table.add_row(str(number), *p95, f"{pair.growth:.2f}", got)
    table.add_row("median", "", "", str(growth), "")
    Console(width=140).print(table, stages_table(pairs))
    if options.json is not None:
        rounds = [asdict(pair) | {"growth": pair.growth} for pair in pairs]
        options.json.write_text(json.dumps({"limits": limits, "rounds": rounds, "growth": growth.value}, indent=1))


if __name__ == "__main__":
    main()

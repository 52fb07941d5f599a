"""How a client fares beside attacks on the service, on this version and on a former one.

    python -m loadtest.bench.attack --before ../former-checkout --json attack.json

The client sends one request a second, first in calm, then beside each attack, to a service whose denoiser sleeps
instead of computing. Beside it, a probe asks for `/healthz` five times a second: its longest wait shows how long the
event loops of proxy and ingress were blocked. The attackers are other tokens, or none, in a process of the lowest
priority. With `--before` the same attacks hit the service of another checkout of this repository too, except those by
names: services that know no `fetch.name_servers` ask the system's, which would go to the network.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from loadtest.bench.attack.attacks import ATTACKS, Attack, Target, run
from loadtest.bench.attack.names import photo_by_name
from loadtest.bench.processes import MemorySamples
from loadtest.bench.tokens import photo
from loadtest.load.beside import beside
from serve_app.launcher import CONFIG, free_port

ROOT = Path(__file__).parents[3]
SLEEPING = "loadtest.bench.peers.sleeping:build_app"
ATTACKERS = 4  # tokens
PROBES_PER_S = 5
START_TIMEOUT_S = 300
CLIENT_TIMEOUT_S = 60
PATIENCE_S = 60  # with the attacker's answers
SAMPLE_EVERY_S = 0.5
MOST_TIMES, MOST_MORE_S = 1.5, 0.3  # of the p95 in calm
MOST_LAG_S = 0.5
MOST_GROWTH_MB = 300.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What the client saw in one run: seconds of its answers, its failures, and the probe's longest wait."""

    latencies_s: tuple[float, ...]
    failures: dict[str, int]
    lag_s: float

    @property
    def p95_s(self) -> float:
        """95th percentile of the latencies, in seconds; infinite where no request got its avatar."""
        return float(np.percentile(self.latencies_s, 95)) if self.latencies_s else float("inf")


@dataclass(frozen=True, slots=True)
class Row:
    """One attack. `growth_mb`: by how much the memory of the process that grew most had grown at its largest."""

    attack: str
    calm: Seen
    attacked: Seen
    growth_mb: float
    process: str
    answers: dict[str, int]  # of the attacker

    @property
    def most_p95_s(self) -> float:
        """The bar in seconds: `MOST_TIMES` the p95 in calm, or `MOST_MORE_S` more, whichever is longer."""
        return max(MOST_TIMES * self.calm.p95_s, self.calm.p95_s + MOST_MORE_S)

    @property
    def met(self) -> bool:
        """Whether no request failed beside the attack, and p95, probe and memory stayed within their bars."""
        seen = self.attacked
        in_time = seen.p95_s <= self.most_p95_s and seen.lag_s <= MOST_LAG_S
        return not seen.failures and in_time and self.growth_mb <= MOST_GROWTH_MB


@dataclass(frozen=True, slots=True)
class Service:
    """A running service of one checkout."""

    url: str
    data_dir: Path
    source: Path

    def new_token(self, name: str) -> str:
        """A new token with the default limits, made by the checkout's own command.

        Raises: subprocess.CalledProcessError.
        """
        command = [sys.executable, "-m", "serve_app.cli", "token", "create", name, "--data-dir", str(self.data_dir)]
        return subprocess.check_output(command, cwd=self.source, env=environment(self.source), text=True).strip()


def environment(source: Path) -> dict[str, str]:
    """This process's variables with PYTHONPATH set to `source` alone: commands run the code of that checkout."""
    return os.environ | {"PYTHONPATH": str(source)}


@contextlib.contextmanager
def service_of(source: Path, name_server: str | None = None) -> Iterator[Service]:
    """The service of a checkout, on the sleeping curve. Raises: RuntimeError where it does not start.

    With `name_server`, `address:port`, it also fetches photos from private addresses.
    """
    with tempfile.TemporaryDirectory(prefix="face-avatar-") as name:
        config = yaml.safe_load(CONFIG.read_text())
        config["applications"][0]["import_path"] = SLEEPING
        if name_server is not None:
            fetch = {"name_servers": [name_server], "allow_private": True}
            config["applications"][0].setdefault("args", {})["fetch"] = fetch
        path, port, data_dir = Path(name) / "config.yaml", free_port(), Path(name) / "data"
        path.write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "serve_app.cli", "serve", "--config", str(path), "--port", str(port)]
        process = subprocess.Popen(
            [*command, "--data-dir", str(data_dir)], cwd=source, env=environment(source), stdout=subprocess.DEVNULL
        )
        try:
            service = Service(f"http://127.0.0.1:{port}", data_dir, source)
            wait_until_ready(service.url, process)
            yield service
        finally:
            process.terminate()
            process.wait()


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Returns once `/readyz` answers 200. Raises: RuntimeError after `START_TIMEOUT_S`, or when the process ends."""
    ends = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < ends and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                return
        time.sleep(0.5)
    raise RuntimeError("the service does not start")


class Client:
    """Sends one request a second, and probes beside it; notes what it sees."""

    def __init__(self, http: httpx.AsyncClient, token: str, photo: str) -> None:
        self._http = http
        self._headers = {"Authorization": f"Bearer {token}"}
        size = {"width": 256, "height": 256, "num_inference_steps": 4}
        self._body = {"app_id": "face-avatar", "file_url": photo, **size}
        self._latencies_s: list[float] = []
        self._failures: Counter[str] = Counter()
        self._lag_s = 0.0

    async def run(self, seconds: float) -> Seen:
        """Sends a request each second for `seconds`, whatever is unanswered; returns when the last one is answered."""
        ends = time.monotonic() + seconds
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._probe(ends))
            while time.monotonic() < ends:
                tasks.create_task(self._ask())
                await asyncio.sleep(1)
        return Seen(tuple(self._latencies_s), dict(self._failures), self._lag_s)

    async def _ask(self) -> None:
        began = time.perf_counter()
        try:
            answer = await self._http.post("/getImageToImage", json=self._body, headers=self._headers)
        except httpx.HTTPError as error:
            self._failures[type(error).__name__] += 1
            return
        if answer.status_code == 200:
            self._latencies_s.append(time.perf_counter() - began)
        else:
            self._failures[str(answer.status_code)] += 1

    async def _probe(self, ends: float) -> None:
        while time.monotonic() < ends:
            began = time.perf_counter()
            try:
                await self._http.get("/healthz")
            except httpx.HTTPError as error:
                self._failures[f"probe {type(error).__name__}"] += 1
            self._lag_s = max(self._lag_s, time.perf_counter() - began)
            await asyncio.sleep(1 / PROBES_PER_S)


def watch(url: str, token: str, photo: str, seconds: float) -> tuple[Seen, dict[tuple[str, int], float]]:
    """What a client sees, and the largest memory of each process meanwhile."""

    async def seen_by_client() -> Seen:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)  # every request is a new client's
        async with httpx.AsyncClient(base_url=url, timeout=CLIENT_TIMEOUT_S, trust_env=False, limits=limits) as http:
            return await Client(http, token, photo).run(seconds)

    memory = MemorySamples(SAMPLE_EVERY_S)
    with memory.watched():
        seen = asyncio.run(seen_by_client())
    return seen, memory.largest_mb()


def rows(source: Path, attacks: Sequence[Attack], seconds: float) -> Iterator[Row]:
    """Each attack on a service of its own: memory that one of them left does not count for the next."""
    data_url = photo()
    jpeg = base64.b64decode(data_url.partition(",")[2])
    for attack in attacks:
        with contextlib.ExitStack() as running:
            named = running.enter_context(photo_by_name(jpeg)) if attack.by_name else None
            service = running.enter_context(service_of(source, named.name_server if named else None))
            url, token = named.url if named else data_url, service.new_token("client")
            attackers = tuple(service.new_token(f"attacker-{number}") for number in range(ATTACKERS))
            watch(service.url, token, url, 3)  # warms up
            calm, before = watch(service.url, token, url, seconds)
            target = Target(service.url, attackers, url)
            with beside(run, attack, target, patience_s=PATIENCE_S) as answers:
                attacked, after = watch(service.url, token, url, seconds)
            growth = {process: mb - before[process] for process, mb in after.items() if process in before}
            largest = max(growth, key=growth.__getitem__)
            yield Row(attack.name, calm, attacked, growth[largest], largest[0], dict(answers))


def table(title: str, found: Sequence[Row]) -> Table:
    """One row for each attack, in red where a bar is missed."""
    shown = Table(
        "attack",
        "p95 calm, s",
        "p95 attacked",
        "failures",
        "longest /healthz, s",
        "grew most, MB",
        "the attacker got",
        title=title,
    )
    for row in found:
        failures = ", ".join(f"{count} x {what}" for what, count in sorted(row.attacked.failures.items())) or "0"
        got = ", ".join(f"{count} x {what}" for what, count in sorted(row.answers.items())) or "nothing yet"
        p95 = f"{row.attacked.p95_s:.2f} (at most {row.most_p95_s:.2f})"
        style = None if row.met else "red"
        lag, growth = f"{row.attacked.lag_s:.2f}", f"{row.growth_mb:.0f} ({row.process})"
        shown.add_row(row.attack, f"{row.calm.p95_s:.2f}", p95, failures, lag, growth, got, style=style)
    return shown


def main() -> int:
    """The exit code: 1 where this checkout misses a bar. The other one, of `--before`, is only shown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--before", type=Path, help="another checkout of this repository")
    parser.add_argument("--seconds", type=float, default=20, help="in calm, and beside each attack")
    parser.add_argument("--only", default="", help="attacks whose names contain this")
    options = parser.parse_args()
    attacks = [attack for attack in ATTACKS if options.only in attack.name]
    sides = {"before": options.before, "now": ROOT}
    found: dict[str, list[Row]] = {}
    for name, source in sides.items():
        if source:
            chosen = [attack for attack in attacks if name == "now" or not attack.by_name]
            found[name] = list(rows(source.resolve(), chosen, options.seconds))
    for name, side in found.items():
        Console(width=170).print(table(name, side))
    if options.json is not None:
        figures = {name: [asdict(row) | {"met": row.met} for row in side] for name, side in found.items()}
        options.json.write_text(json.dumps(figures, indent=1))
    return 0 if all(row.met for row in found["now"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())

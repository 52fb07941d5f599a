"""One server under load: started as a process, loaded by one client, measured, stopped.

A closed loop with a fixed number of requests in flight measures the throughput; an open loop with predetermined arrival
times measures the latency, from the time at which a request was due, whatever delayed it, to the last byte of its
image.
"""

import asyncio
import base64
import contextlib
import io
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import yaml
from PIL import Image

from loadtest.bench.engine.queues import Arrival
from loadtest.bench.peers.painters import CURVE, SIDES, STEPS
from serve_app.backends.secrets import TOKEN_FILE, ensure_token
from serve_app.launcher import CONFIG, free_port
from serve_app.photos.sample import sample_photo

SERVICE = "face-avatar"
SERVERS = {"fastapi": "FastAPI and a lock", "litserve": "LitServe", "serve": "@serve.batch", SERVICE: "this service"}
ROUTE = "/getImageToImage"
START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 30
REQUEST_TIMEOUT_S = 600
KEEP_ALIVE_S = 2  # less than any server's keep-alive timeout
WARM_UP = 8  # concurrent warm-up requests
SLEEPING_APP = "loadtest.bench.peers.sleeping:build_app"


Command = Callable[[int, Path], list[str]]
"""Of a port and an empty folder: the command line of a server."""


class PeerError(Exception):
    """A server did not start, or answered without an image."""


@dataclass(frozen=True, slots=True)
class Request:
    """When to ask for an image of how many steps; the seed differs for each request of a run."""

    arrival: Arrival
    seed: int


@dataclass(frozen=True, slots=True)
class Measured:
    """`latencies_s` are in the order of the requests; `cpu_s` is the sum of all processes of the server."""

    steps: tuple[int, ...]
    latencies_s: tuple[float, ...]
    whole_s: float
    cpu_s: float

    @classmethod
    def of_rounds(cls, rounds: Sequence["Measured"]) -> "Measured":
        """The rounds of one server as one run."""
        return cls(
            tuple(steps for each in rounds for steps in each.steps),
            tuple(latency_s for each in rounds for latency_s in each.latencies_s),
            sum(each.whole_s for each in rounds),
            sum(each.cpu_s for each in rounds),
        )

    @property
    def images_per_s(self) -> float:
        """Images a second of `whole_s`, which does not include the warm-up."""
        return len(self.steps) / self.whole_s

    @property
    def mean_s(self) -> float:
        """Mean latency in seconds."""
        return statistics.fmean(self.latencies_s)

    @property
    def p50_s(self) -> float:
        """Median latency in seconds."""
        return float(np.percentile(self.latencies_s, 50))

    @property
    def p95_s(self) -> float:
        """95th percentile of the latency, in seconds."""
        return float(np.percentile(self.latencies_s, 95))

    @property
    def shortest_s(self) -> float:
        """Mean of the images with the fewest steps."""
        pairs = zip(self.steps, self.latencies_s, strict=True)
        return statistics.fmean(latency_s for steps, latency_s in pairs if steps == min(self.steps))


def measure(command: Command, model: str, arrivals: Sequence[Arrival], in_flight: int | None = None) -> Measured:
    """Start a server and send it these requests, in an open or a closed loop. Raises: PeerError."""
    with tempfile.TemporaryDirectory(prefix="peer-") as name:
        folder, port = Path(name), free_port()
        ensure_token(folder / "data")
        token = (folder / "data" / TOKEN_FILE).read_text().strip()
        with started(command(port, folder), folder / "log") as process:
            return asyncio.run(_measure(process, f"http://127.0.0.1:{port}", token, model, arrivals, in_flight))


def command_of(server: str, model: str, port: int, folder: Path) -> list[str]:
    """How to start a server; for the service it first writes a config into `folder`, where its data go too."""
    if server == SERVICE:
        return serve(service_config(model), port, folder)
    module = "loadtest.bench.peers.servers"
    return [sys.executable, "-m", module, server, "--model", model, "--port", str(port)]


def serve(config: Mapping[str, Any], port: int, folder: Path) -> list[str]:
    """How to start the service with this config, which is written into `folder`, where its data go too."""
    path = folder / "service.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "serve_app.cli", "serve", "--config", str(path)]
    return [*command, "--port", str(port), "--data-dir", str(folder / "data")]


def service_config(model: str) -> dict[str, Any]:
    """The service as it ships, without what the peers lack: load shedding and a second generator."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    (application,) = config["applications"]
    application["args"]["admission"]["max_images"] = 1000
    if model == CURVE.name:
        application["import_path"] = SLEEPING_APP
    for deployment in application["deployments"]:
        if deployment["name"] == "AvatarGenerator":
            del deployment["autoscaling_config"]
            deployment["num_replicas"] = 1
            deployment["max_ongoing_requests"] = 1000
    return config


def environment() -> dict[str, str]:
    """The environment that the service sets for its generator, for all servers."""
    deployments = yaml.safe_load(CONFIG.read_text())["applications"][0]["deployments"]
    (generator,) = (each for each in deployments if each["name"] == "AvatarGenerator")
    variables: dict[str, str] = generator["ray_actor_options"]["runtime_env"]["env_vars"]
    return variables


@contextlib.contextmanager
def started(command: Sequence[str], log: Path) -> Iterator[psutil.Process]:
    """The process of a server; it and its descendants have ended after the block."""
    with log.open("wb") as file:
        running = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | environment(), start_new_session=True
        )
    process = psutil.Process(running.pid)
    try:
        yield process
    except (aiohttp.ClientError, PeerError) as error:
        raise PeerError(f"{' '.join(command)}: {error}\n{log.read_text()[-2000:]}") from error
    finally:
        family = process.children(recursive=True) if process.is_running() else []
        running.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(STOP_TIMEOUT_S)
        for left in [process, *family]:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        running.wait()


class Client:
    """Sends requests and measures when their images arrive."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str) -> None:
        self._session = session
        self._url = url
        self._side = SIDES[model]
        self._photo = photo_url()

    async def picture(self, steps: int, seed: int, style: str | None = None) -> bytes:
        """Raises: PeerError; aiohttp.ClientError."""
        side = self._side
        body: dict[str, Any] = {"app_id": SERVICE, "file_url": self._photo, "num_inference_steps": steps, "seed": seed}
        body |= {"width": side, "height": side} | ({} if style is None else {"style": style})
        async with self._session.post(self._url + ROUTE, json=body) as answer:
            if answer.status != 200:
                raise PeerError(f"{answer.status}: {(await answer.text())[:500]}")
            found = await answer.json()
        if "image" in found:
            return base64.b64decode(found["image"])
        async with self._session.get(found["output"]["result"][0], headers={"Authorization": ""}) as file:
            return await file.read()

    async def until_ready(self, process: psutil.Process) -> None:
        """Raises: PeerError with the last error."""
        deadline, problem = time.monotonic() + START_TIMEOUT_S, "it ended"
        while time.monotonic() < deadline and process.status() != psutil.STATUS_ZOMBIE:
            try:
                await self.picture(2, 0)
                return
            except (aiohttp.ClientError, PeerError) as error:
                problem = str(error)
            await asyncio.sleep(0.2)
        raise PeerError(f"the server did not start: {problem}")

    async def timed(self, request: Request, due: float) -> float:
        """Seconds since the request was due (monotonic clock)."""
        file = await self.picture(request.arrival.steps, request.seed, request.arrival.style)
        latency_s = time.monotonic() - due
        with Image.open(io.BytesIO(file)) as found:
            if found.size != (self._side, self._side):
                raise PeerError(f"a picture of {found.size}")
        return latency_s


def photo_url() -> str:
    """A data URL of the sample photo as a JPEG, 91 kB in all, as clients send it."""
    file = io.BytesIO()
    Image.open(sample_photo()).convert("RGB").save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


async def _measure(
    process: psutil.Process, url: str, token: str, model: str, arrivals: Sequence[Arrival], in_flight: int | None
) -> Measured:
    requests = [Request(arrival, seed) for seed, arrival in enumerate(arrivals)]
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
        headers={"Authorization": f"Bearer {token}"},  # the peers need none
    ) as session:
        client = Client(session, url, model)
        await client.until_ready(process)
        await asyncio.gather(*(client.picture(min(STEPS[model]), seed) for seed in range(WARM_UP)))
        cpu_before_s, began = cpu_s(process), time.monotonic()
        latencies_s = await (open_loop(client, requests) if in_flight is None else closed(client, requests, in_flight))
        whole_s = time.monotonic() - began
    steps = tuple(arrival.steps for arrival in arrivals)
    return Measured(steps, tuple(latencies_s), whole_s, cpu_s(process) - cpu_before_s)


async def open_loop(client: Client, requests: Sequence[Request]) -> list[float]:
    """Latencies in the order of the requests; each is sent when it is due, whatever is in flight.

    Raises: PeerError; aiohttp.ClientError.
    """
    began = time.monotonic()

    async def in_time(request: Request) -> float:
        due = began + request.arrival.at_s
        await asyncio.sleep(due - time.monotonic())
        return await client.timed(request, due)

    return await asyncio.gather(*map(in_time, requests))


async def closed(client: Client, requests: Sequence[Request], in_flight: int) -> list[float]:
    """Latencies in the order of the requests, with `in_flight` at once; their arrival times are ignored.

    Each latency starts when the request is sent. Raises: PeerError; aiohttp.ClientError.
    """
    room = asyncio.Semaphore(in_flight)

    async def in_turn(request: Request) -> float:
        async with room:
            return await client.timed(request, time.monotonic())

    return await asyncio.gather(*map(in_turn, requests))


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds of a process and its running descendants."""
    total = 0.0
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            total += times.user + times.system
    return total

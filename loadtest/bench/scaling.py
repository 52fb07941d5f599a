"""How soon a burst starts a second replica of each stage, with the delays of production.yaml.

    python -m loadtest.bench.scaling --json scaling.json

A service runs the embedded models. One stage after the other may scale to two replicas and gets more work than the
target of one replica, until the second one is up. `decided` is when
Serve's controller starts that replica, `running` when it answers; both are seconds after the first call of the burst.
"""

import argparse
import contextlib
import http.server
import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ray
import yaml
from prometheus_client.parser import text_string_to_metric_families
from ray import serve
from ray.serve.handle import DeploymentResponse
from rich.console import Console
from rich.table import Table

from deployments.types import AvatarSpec, FaceEmbedding, GeneratedImage, PostprocessSpec
from loadtest.load.own_service import photo_server
from serve_app.client import FaceAvatarClient
from serve_app.launcher import CONFIG, RunningService, ServiceOptions, _deploy, free_port, read_config, run_service
from serve_app.photos.sample import sample_photo
from serve_app.pipeline.cold_start import StageState, fetch_stage_states

APP = "face-avatar"
STAGES = ("AvatarIngress", "AvatarWorker", "FaceEmbedder", "AvatarGenerator", "BackgroundRemover")
WITH_TORCH = "AvatarGenerator"
TARGET = 2  # ongoing calls, tasks or images of one replica
AT_ONCE = 8  # in a burst
TIMEOUT_S = 120
LOOK_EVERY_S = 0.05
REPORT_EVERY_S = 1  # of Ray's processes, instead of 10
MOST_DECIDED_S = 2.0
MOST_RUNNING_S = 3.0

Call = Callable[[threading.Event], object]
"""Returns when the work is done, or soon after the event is set."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """Times of one burst, in seconds after its first call."""

    decided_s: float
    running_s: float


@dataclass(slots=True)
class Stage:
    """What was measured of one stage: a reaction for each burst, and seconds of its cold starts by part."""

    reactions: list[Reaction] = field(default_factory=list)
    parts_s: dict[str, float] = field(default_factory=dict)  # of a start, means

    @property
    def decided_s(self) -> float:
        """Median of the bursts, in seconds after the first call of each."""
        return statistics.median(each.decided_s for each in self.reactions)

    @property
    def running_s(self) -> float:
        """Median of the bursts, in seconds after the first call of each."""
        return statistics.median(each.running_s for each in self.reactions)


def write_config(folder: Path, bursting: str | None = None) -> Path:
    """The embedded profile with one replica of each stage, except for one that scales as in production."""
    embedded = yaml.safe_load(CONFIG.read_text())
    application = embedded["applications"][0]
    application["args"]["fetch"] = {"allow_private": True}
    application["args"]["worker"]["concurrency"] = TARGET
    for model in application["args"]["generator"]["models"].values():
        model["threads"] = 1  # leaves a core to the starting replica
    production = yaml.safe_load(CONFIG.with_name("production.yaml").read_text())["applications"][0]["deployments"]
    scaling = {deployment["name"]: deployment["autoscaling_config"] for deployment in production}
    for deployment in application["deployments"]:
        deployment["ray_actor_options"]["num_cpus"] = 0.01
        if deployment["name"] not in STAGES:
            continue
        # For all stages: adding or removing one policy would restart all others.
        most = 2 if deployment["name"] == bursting else 1
        small = {"min_replicas": 1, "max_replicas": most, "target_ongoing_requests": TARGET, "downscale_delay_s": 10}
        deployment["autoscaling_config"] = scaling[deployment["name"]] | small
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(embedded))
    return path


class Bursts:
    """A service, and for each stage the work that keeps it busy."""

    def __init__(self, running: RunningService, folder: Path, slow_photo: str) -> None:
        self._running = running
        self._folder = folder
        self._slow_photo = slow_photo
        self._headers = {"Authorization": f"Bearer {running.token}"}
        self._client = FaceAvatarClient(running.url, running.token)
        rng = np.random.default_rng(7)
        self._picture = rng.integers(0, 255, (512, 512, 3), np.uint8)
        vector = rng.standard_normal(512).astype(np.float32)
        self._face = FaceEmbedding(vector / np.linalg.norm(vector), (0, 0, 512, 512), 1.0)

    def react(self, name: str) -> Reaction:
        """One burst; afterwards there is one replica again."""
        self._scale(name)
        started = time.monotonic()
        with keep_calling(self._call(name)):
            wait_until(lambda: (state := fetch_stage_states(APP)[name]).starting > 0 or state.serving > 1)
            decided_s = time.monotonic() - started
            wait_until(lambda: fetch_stage_states(APP)[name].serving > 1)
            running_s = time.monotonic() - started
        wait_until(settled)
        return Reaction(decided_s, running_s)

    def _scale(self, name: str) -> None:
        """Let only this stage scale."""
        port = httpx.URL(self._running.url).port
        path = write_config(self._folder, name)
        schema, _ = read_config(ServiceOptions(config=path, port=port, data_dir=self._running.data_dir))
        _deploy(schema)
        time.sleep(1)  # until the controller has started on it
        wait_until(settled)

    def _call(self, name: str) -> Call:
        embedder, generator, remover = (serve.get_deployment_handle(stage, APP) for stage in STAGES[2:])
        image, postprocessing = GeneratedImage(self._picture, 0, 0), PostprocessSpec(512, 512, remove_background=True)
        calls: dict[str, Call] = {
            "AvatarIngress": self._send_slow_photo,
            "AvatarWorker": self._queue,
            "FaceEmbedder": lambda _: embedder.similarity.remote(image, self._face).result(),
            "AvatarGenerator": lambda stop: until(stop, generator.generate.remote(long_row(), self._face)),
            "BackgroundRemover": lambda _: remover.postprocess.remote(image, postprocessing).result(),
        }
        return calls[name]

    def _send_slow_photo(self, _: threading.Event) -> None:
        body = {"app_id": APP, "file_url": self._slow_photo}
        httpx.post(f"{self._running.url}/getImageToImage", json=body, headers=self._headers, timeout=TIMEOUT_S)

    def _queue(self, stop: threading.Event) -> None:
        task = self._client.avatars.submit(sample_photo(), num_inference_steps=50, width=512, height=512, batch=8)
        stop.wait()
        self._client.avatars.cancel(task)


def long_row() -> AvatarSpec:
    """A row that keeps a generator busy until cancelled: 50 steps of 512 x 512 pixels, for a task of its own."""
    seed, now = random.randrange(2**31), time.time()
    return AvatarSpec("embedded", seed, "a portrait", "", 512, 512, 50, 2.0, f"burst-{seed}", 0, now, now + 600)


def until(stop: threading.Event, response: DeploymentResponse[Any]) -> None:
    """Wait for a response, or until the burst ends."""
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            response.result(timeout_s=LOOK_EVERY_S)
            return
    response.cancel()


@contextlib.contextmanager
def keep_calling(call: Call) -> Iterator[None]:
    """Keeps several calls in flight during the block."""
    stop = threading.Event()

    def again_and_again() -> None:
        while not stop.is_set():
            call(stop)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        calling = [pool.submit(again_and_again) for _ in range(AT_ONCE)]
        try:
            yield
        finally:
            stop.set()
            for each in calling:
                each.result()


def settled() -> bool:
    """Whether each stage has one replica, and nothing changes."""
    states = fetch_stage_states(APP)
    return all(states.get(name) == StageState("HEALTHY", serving=1, starting=0) for name in STAGES)


def wait_until(question: Callable[[], bool]) -> None:
    """Raises: TimeoutError."""
    deadline = time.monotonic() + TIMEOUT_S
    while not question():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {TIMEOUT_S} s; the stages: {fetch_stage_states(APP)}")
        time.sleep(LOOK_EVERY_S)


class SlowPhotos(http.server.BaseHTTPRequestHandler):
    """A host whose photo never comes: each request is slow and ends in a 404."""

    def do_GET(self) -> None:
        """Answers 404 after 2 seconds, during which the request of the photo is ongoing at the ingress."""
        time.sleep(2)
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Nothing: the base class prints a line for each request."""


def parts_of_starts(name: str) -> dict[str, float]:
    """Mean seconds of each part of this stage's cold starts since the service began."""
    (node,) = ray.nodes()
    exported = httpx.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=30).text
    parts_s: dict[str, float] = {}
    starts = 0.0
    for family in text_string_to_metric_families(exported):
        for sample in family.samples:
            if sample.labels.get("deployment") != name:
                continue
            if sample.name == "ray_avatar_cold_starts_total":
                starts += sample.value
            if sample.name == "ray_avatar_cold_start_seconds_total":
                parts_s[sample.labels["part"]] = parts_s.get(sample.labels["part"], 0) + sample.value
    return {part: seconds / starts for part, seconds in parts_s.items()} if starts else {}


def measure(stages: list[str], rounds: int) -> dict[str, Stage]:
    """`rounds` bursts of each stage on one service, and the parts of all cold starts so far of that stage.

    Sets the interval of Ray's metrics in the environment of this process. Raises: StartError; TimeoutError.
    """
    os.environ.update(RAY_metrics_report_interval_ms=str(1000 * REPORT_EVERY_S))
    found = {name: Stage() for name in stages}
    with tempfile.TemporaryDirectory(prefix="face-avatar-") as name, photo_server(SlowPhotos) as photo:
        folder = Path(name)
        options = ServiceOptions(config=write_config(folder), port=free_port(), data_dir=folder / "data")
        with run_service(options) as running:
            bursts = Bursts(running, folder, photo)
            for name, stage in found.items():
                stage.reactions = [bursts.react(name) for _ in range(rounds)]
                time.sleep(3 * REPORT_EVERY_S)
                stage.parts_s = parts_of_starts(name)
    return found


def show(found: dict[str, Stage]) -> Table:
    """A row for each stage: medians of its bursts, means of its cold starts."""
    parts = ("process", "import", "load", "warm")
    table = Table("stage", "decided, s", "running, s", *(f"{part}, s" for part in parts), title="median; starts: mean")
    for name, stage in found.items():
        in_parts = (f"{stage.parts_s[part]:.2f}" if part in stage.parts_s else "" for part in parts)
        table.add_row(name, f"{stage.decided_s:.2f}", f"{stage.running_s:.2f}", *in_parts)
    return table


def met(found: dict[str, Stage]) -> bool:
    """Whether every stage is decided in time, and those without torch also run in time."""
    return all(
        stage.decided_s <= MOST_DECIDED_S and (name == WITH_TORCH or stage.running_s <= MOST_RUNNING_S)
        for name, stage in found.items()
    )


def main() -> int:
    """The exit code: 1 where a stage exceeds `MOST_DECIDED_S` or, without torch, `MOST_RUNNING_S`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    options = parser.parse_args()
    found = measure(options.stages, options.rounds)
    Console().print(show(found))
    if options.json is not None:
        options.json.write_text(json.dumps({name: asdict(stage) for name, stage in found.items()}, indent=1))
    return 0 if met(found) else 1


if __name__ == "__main__":
    raise SystemExit(main())

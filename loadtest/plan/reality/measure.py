"""A running service under a load: latencies, its generators over time, how long their starts took, its step times."""

import asyncio
import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
from ray.serve.context import _get_global_client
from ray.serve.schema import ReplicaState

from loadtest.metrics.scrape import exporters
from loadtest.plan.loads import Load, Request
from loadtest.plan.reality.loads import APP, request_at
from loadtest.plan.reality.recording import Lone, Replica, Run
from loadtest.plan.reality.service import GENERATOR, write_config
from serve_app.client import AsyncFaceAvatarClient, Task
from serve_app.launcher import RunningService, ServiceOptions, free_port, run_service
from serve_app.photos.sample import sample_photo
from serve_app.pipeline.cold_start import SERVING

LOOK_EVERY_S = 0.1
LONE = 12
LONE_REQUEST = request_at(0.0, 50)
SETTLE_TIMEOUT_S = 120
CLIENT_TIMEOUT_S = 300
REPORT_EVERY_S = 1  # of Ray's metrics, instead of 10


class ReplicaWatch:
    """The generators of a service during a block, by their state in Serve."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._seen: dict[str, Replica] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "ReplicaWatch":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def replicas(self) -> list[Replica]:
        """In order of their starts; those that were there at first began at 0 s."""
        return list(self._seen.values())

    def _run(self) -> None:
        now_s = 0.0
        while not self._over.is_set():
            self._look(now_s)
            self._over.wait(LOOK_EVERY_S)
            now_s = round(time.monotonic() - self._began_s, 2)

    def _look(self, now_s: float) -> None:
        states = generator_states()
        for name, state in states.items():
            replica = self._seen.setdefault(name, Replica(began_s=now_s))
            if state in SERVING and replica.ready_s is None:
                replica.ready_s = now_s
            if state is ReplicaState.STOPPING and replica.stopped_s is None:
                replica.stopped_s = now_s
        for name in self._seen.keys() - states.keys():
            if self._seen[name].ended_s is None:
                self._seen[name].ended_s = now_s


def generator_states() -> dict[str, ReplicaState]:
    """The states of all generators that there are, by their ids."""
    details = _get_global_client().get_serve_details()["applications"][APP]["deployments"][GENERATOR]["replicas"]
    return {each["replica_id"]: ReplicaState(each["state"]) for each in details}


class Measurement:
    """A service that is ready."""

    def __init__(self, running: RunningService) -> None:
        self._running = running

    def lone(self) -> Iterator[Lone]:
        """Requests that nothing else delays, one after the other. Raises: ClientError."""
        settle()
        for _ in range(LONE):
            [(latency_s, task)] = asyncio.run(self._answers([LONE_REQUEST]))
            yield Lone(latency_s, task.stages["fetch"] + task.stages["face"])

    def page(self) -> str:
        """What its processes export for Prometheus."""
        time.sleep(3 * REPORT_EVERY_S)
        return "".join(httpx.get(url, timeout=30).raise_for_status().text for url in exporters())

    def run(self, load: Load) -> Run:
        """The answers to a load, once there is one generator again. Raises: TimeoutError; ClientError."""
        settle()
        with ReplicaWatch() as watch:
            began_s = time.monotonic()
            answers = asyncio.run(self._answers(load.requests))
            time.sleep(max(0.0, began_s + load.seconds - time.monotonic()))
        return Run(load.name, [round(latency_s, 3) for latency_s, _ in answers], watch.replicas)

    async def _answers(self, requests: Sequence[Request]) -> list[tuple[float, Task]]:
        """Latency and task of each, from when it was due."""
        began_s, photo = time.monotonic(), sample_photo()
        async with AsyncFaceAvatarClient(
            self._running.url, self._running.token, timeout_s=CLIENT_TIMEOUT_S, retries=0
        ) as client:

            async def answer(request: Request, seed: int) -> tuple[float, Task]:
                await asyncio.sleep(began_s + request.at_s - time.monotonic())
                task = await client.avatars.create(
                    photo, app_id=APP, width=request.width, height=request.height, seed=seed,
                    num_inference_steps=request.steps, batch=request.batch,
                )  # fmt: skip
                return time.monotonic() - began_s - request.at_s, task.require_success()

            return await asyncio.gather(*(answer(request, seed) for seed, request in enumerate(requests)))


def settle() -> None:
    """Wait until one generator is left. Raises: TimeoutError."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while list(generator_states().values()) != [ReplicaState.RUNNING]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the generators do not settle: {generator_states()}")
        time.sleep(LOOK_EVERY_S)


@contextlib.contextmanager
def measured_service() -> Iterator[Measurement]:
    """The service on a free port. Sets variables of Ray in the environment: metrics each second, no niceness.

    Raises: StartError.
    """
    os.environ.update(RAY_metrics_report_interval_ms=str(1000 * REPORT_EVERY_S), RAY_worker_niceness="0")
    with tempfile.TemporaryDirectory(prefix="face-avatar-") as name:
        folder = Path(name)
        options = ServiceOptions(config=write_config(folder), port=free_port(), data_dir=folder / "data")
        with run_service(options) as running:
            yield Measurement(running)

"""What dies, and what leaves, while work is under way."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import psutil
import pytest
import ray
from ray import serve
from ray.exceptions import RayError
from ray.util.state import list_actors

from tests.support.service import Service

pytestmark = pytest.mark.slow
APP = "face-avatar"
LONG = {"num_inference_steps": 50, "batch": 4, "width": 256, "height": 256, "deadline_s": 600}


def actors() -> list[tuple[str, int]]:
    """The classes of those that live, and their processes."""
    address = ray.get_runtime_context().gcs_address  # other clusters may run on this machine
    alive = list_actors(address, filters=[("state", "=", "ALIVE")], limit=1000)
    return [(actor.class_name, int(actor.pid)) for actor in alive]


def replica_pid(deployment: str) -> int:
    """The process of a replica; 0 while there is none."""
    return next((pid for name, pid in actors() if f":{deployment}" in name), 0)


def replicas() -> set[tuple[str, int]]:
    return {(name, pid) for name, pid in actors() if name.startswith("ServeReplica:")}


def controller_pid() -> int:
    return dict(actors()).get("ServeController", 0)


def runs() -> bool:
    """Whether the controller answers, and has all replicas that it wants."""
    with suppress(RayError):
        return serve.status().applications[APP].status.value == "RUNNING"
    return False


def is_drawing(generator: psutil.Process) -> bool:
    return bool(generator.cpu_percent(interval=0.5) > 60)


@pytest.mark.parametrize("stage", ["AvatarGenerator", "BackgroundRemover", "FaceEmbedder"])
def test_a_replica_killed_during_a_request_costs_time_only(
    service: Service, poll: Callable[..., Any], stage: str
) -> None:
    generator = psutil.Process(poll(lambda: replica_pid("AvatarGenerator")))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(service.make, seed=4, **LONG)
        poll(lambda: is_drawing(generator))
        os.kill(replica_pid(stage), signal.SIGKILL)
        envelope = answer.result()
    assert len(envelope["output"]["result"]) == LONG["batch"]
    assert service.make(num_inference_steps=2)["status"] == "SUCCESS"


def test_an_ingress_killed_during_a_request_is_answered_for_in_the_envelope(
    service: Service, poll: Callable[..., Any]
) -> None:
    generator = psutil.Process(poll(lambda: replica_pid("AvatarGenerator")))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(service.post, **LONG)
        poll(lambda: is_drawing(generator))
        os.kill(replica_pid("AvatarIngress"), signal.SIGKILL)
        failed = answer.result()
    assert failed.status_code == 503
    assert failed.json()["error"] == "Overloaded"
    assert int(failed.headers["retry-after"]) > 0
    assert len(failed.headers.get_list("x-request-id")) == 1
    poll(lambda: service.post(num_inference_steps=2).status_code == 200)


def test_a_client_that_leaves_frees_the_generator(service: Service, poll: Callable[..., Any]) -> None:
    generator = psutil.Process(poll(lambda: replica_pid("AvatarGenerator")))
    long = LONG | {"batch": 8}
    started = time.monotonic()
    service.make(**long)
    whole_s = time.monotonic() - started

    with send(service, long):
        poll(lambda: is_drawing(generator))
    started = time.monotonic()
    poll(lambda: service.post(num_inference_steps=2).status_code == 200)  # 503 until it is noticed that they left
    assert time.monotonic() - started < whole_s / 2  # it would have waited for the batches of who left


def status(service: Service, task_id: str) -> str:
    return str(service.client.get(f"/api/v1/tasks/{task_id}").json()["status"])


def test_a_queued_task_whose_worker_was_killed_is_done_by_the_next(service: Service, poll: Callable[..., Any]) -> None:
    task_id = service.post(celery=True, seed=4, **LONG).json()["task_id"]
    poll(lambda: status(service, task_id) == "STARTED")
    os.kill(replica_pid("AvatarWorker"), signal.SIGKILL)
    poll(lambda: status(service, task_id) == "SUCCESS", 120)


def test_a_broker_that_was_killed_starts_again_with_all_that_it_had(service: Service, poll: Callable[..., Any]) -> None:
    finished = service.make(num_inference_steps=2)["task_id"]
    tasks = [service.post(celery=True, num_inference_steps=2).json()["task_id"] for _ in range(4)]
    owner = psutil.Process(replica_pid("EmbeddedValkey"))
    (server,) = (process for process in owner.children(recursive=True) if "valkey" in process.name())
    server.kill()
    assert status(service, finished) == "SUCCESS"
    for task_id in tasks:
        poll(lambda task_id=task_id: status(service, task_id) == "SUCCESS", 60)
    assert service.make(num_inference_steps=2)["status"] == "SUCCESS"


def test_the_broker_comes_back_after_its_owner_was_killed(service: Service, poll: Callable[..., Any]) -> None:
    finished = service.make(num_inference_steps=2)["task_id"]
    os.kill(replica_pid("EmbeddedValkey"), signal.SIGKILL)
    assert service.make(num_inference_steps=2)["status"] == "SUCCESS"  # recorded or not
    poll(lambda: service.client.get(f"/api/v1/tasks/{finished}").status_code == 200, 60)
    task_id = service.post(celery=True, num_inference_steps=2).json()["task_id"]
    poll(lambda: status(service, task_id) == "SUCCESS", 60)


def test_a_controller_that_was_killed_keeps_all_replicas_when_it_is_back(
    service: Service, poll: Callable[..., Any]
) -> None:
    assert service.make()["status"] == "SUCCESS"  # every replica has opened what it opens on first use
    kept, killed = replicas(), controller_pid()
    os.kill(killed, signal.SIGKILL)
    poll(lambda: controller_pid() not in (0, killed) and runs(), 60)
    assert service.make(num_inference_steps=2)["status"] == "SUCCESS"
    assert replicas() == kept


def send(service: Service, fields: dict[str, Any]) -> socket.socket:
    """A request on its way; closing the socket is how its client leaves."""
    body = json.dumps({"app_id": "face-avatar", "file_url": f"{service.photos}/astronaut.png", **fields}).encode()
    url = httpx.URL(service.url)
    connection = socket.create_connection((url.host, url.port or 80))
    head = (
        f"POST /getImageToImage HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\n"
        f"Authorization: {service.client.headers['authorization']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection

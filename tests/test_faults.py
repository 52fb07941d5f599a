"""What dies, and what leaves, while work is under way."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
from ray.util.state import list_actors

from tests.conftest import Service

LONG = {"num_inference_steps": 50, "batch": 4, "width": 256, "height": 256, "deadline_s": 600}


def replica_pid(deployment: str) -> int:
    actors = list_actors(filters=[("state", "=", "ALIVE")], limit=1000)
    return next(int(actor.pid) for actor in actors if f":{deployment}" in actor.class_name)


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


def test_a_client_that_leaves_frees_the_generator(service: Service, poll: Callable[..., Any]) -> None:
    generator = psutil.Process(poll(lambda: replica_pid("AvatarGenerator")))
    leaving = httpx.Client(base_url=service.url, headers=service.client.headers, timeout=3)
    body = {"app_id": "face-avatar", "file_url": f"{service.photos}/six.jpg", **LONG}
    with pytest.raises(httpx.ReadTimeout):
        leaving.post("/getImageToImage", json=body)
    poll(lambda: not is_drawing(generator), timeout_s=10)
    assert service.make(num_inference_steps=2)["status"] == "SUCCESS"

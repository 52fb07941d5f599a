"""A whole service that ends, politely or not, and starts again on its data."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.photos import data_url, photo_files
from tests.support.service_process import STOP_S, kill_everything, running_service, submit

pytestmark = pytest.mark.slow

BODY = {"app_id": "face-avatar", "file_url": data_url(photo_files()["astronaut.png"])}
LONG = {"num_inference_steps": 50, "batch": 2, "width": 256, "height": 256}
Poll = Callable[..., Any]


def test_a_service_that_ends_goes_on_with_its_token_results_and_queue(tmp_path: Path, poll: Poll) -> None:
    with running_service(tmp_path, poll) as (client, process):
        token = client.headers["Authorization"]
        path = made(client)
        check_own_addresses_are_refused(client)
        first = queue(client, poll)
        family = process.children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_S) == 0
        poll(lambda: not any(member.is_running() for member in family))
    with running_service(tmp_path, poll) as (client, process):
        assert client.headers["Authorization"] == token
        assert client.get(path).status_code == 200
        check_done(client, poll, first)
        second = queue(client, poll)
        kill_everything(process)
    with running_service(tmp_path, poll) as (client, _process):
        assert client.headers["Authorization"] == token
        assert client.get(path).status_code == 200
        check_done(client, poll, second)


def made(client: httpx.Client) -> str:
    """The path of a result."""
    answer = client.post("/getImageToImage", json=BODY)
    assert answer.json()["status"] == "SUCCESS", answer.text
    return str(answer.json()["output"]["result"][0]).removeprefix(str(client.base_url).rstrip("/"))


def check_own_addresses_are_refused(client: httpx.Client) -> None:
    refused = client.post("/getImageToImage", json=BODY | {"file_url": f"{client.base_url}healthz"})
    assert (refused.status_code, refused.json()["error"]) == (422, "Image URL Error")


def queue(client: httpx.Client, poll: Poll) -> list[str]:
    """Tasks, of which the first has begun."""
    tasks = [submit(client, **LONG) for _ in range(2)] + [submit(client, num_inference_steps=2) for _ in range(4)]
    poll(lambda: client.get(f"/api/v1/tasks/{tasks[0]}").json()["status"] == "STARTED")
    return tasks


def check_done(client: httpx.Client, poll: Poll, tasks: list[str]) -> None:
    for task_id in tasks:
        poll(lambda task_id=task_id: client.get(f"/api/v1/tasks/{task_id}").json()["status"] == "SUCCESS", 120)
        for url in client.get(f"/api/v1/tasks/{task_id}").json()["output"]["result"]:
            assert httpx.get(url).status_code == 200

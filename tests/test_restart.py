"""A whole service that ends, politely or not, and starts again on its data."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serve_app.client import data_url
from serve_app.launcher import free_port
from serve_app.photos.sample import sample_photo

pytestmark = pytest.mark.slow

LONG = {"num_inference_steps": 50, "batch": 4, "width": 256, "height": 256}


@contextmanager
def running_service(data_dir: Path, poll: Callable[..., Any]) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    port = free_port()
    command = [sys.executable, "-m", "serve_app.cli", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            poll(lambda: answers(client), 120)
            client.headers["Authorization"] = f"Bearer {(data_dir / 'token').read_text().strip()}"
            yield client, process
    finally:
        if process.is_running():
            process.send_signal(signal.SIGINT)
        process.wait(60)


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def submit(client: httpx.Client, **fields: Any) -> str:
    body = {"app_id": "face-avatar", "file_url": data_url(sample_photo()), "celery": True, **fields}
    answer = client.post("/getImageToImage", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["task_id"])


@pytest.mark.parametrize("end", ["ctrl-C", "kill -9 of everything"])
def test_queued_tasks_survive_a_restart_of_the_whole_service(
    tmp_path: Path, poll: Callable[..., Any], end: str
) -> None:
    with running_service(tmp_path, poll) as (client, process):
        tasks = [submit(client, **LONG) for _ in range(2)] + [submit(client, num_inference_steps=2) for _ in range(6)]
        poll(lambda: client.get(f"/api/v1/tasks/{tasks[0]}").json()["status"] == "STARTED")
        if end == "ctrl-C":
            process.send_signal(signal.SIGINT)
        else:
            for member in [process, *process.children(recursive=True)]:
                os.kill(member.pid, signal.SIGKILL)
        process.wait(60)
    with running_service(tmp_path, poll) as (client, _process):
        for task_id in tasks:
            poll(lambda task_id=task_id: client.get(f"/api/v1/tasks/{task_id}").json()["status"] == "SUCCESS", 120)
            for url in client.get(f"/api/v1/tasks/{task_id}").json()["output"]["result"]:
                assert httpx.get(url).status_code == 200

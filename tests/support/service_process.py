"""A service as a process of its own, started as an operator starts it."""

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

from serve_app.client import data_url
from serve_app.launcher import free_port
from serve_app.photos.sample import sample_photo

STOP_S = 60


@contextmanager
def running_service(
    data_dir: Path, poll: Callable[..., Any], *options: str
) -> Iterator[tuple[httpx.Client, psutil.Popen]]:
    port = free_port()
    service = [sys.executable, "-m", "serve_app.cli", "serve"]
    command = [*service, "--port", str(port), "--data-dir", str(data_dir), *options]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            poll(lambda: answers(client), 120)
            client.headers["Authorization"] = f"Bearer {(data_dir / 'token').read_text().strip()}"
            yield client, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # as `docker stop` and systemd do
            assert process.wait(STOP_S) == 0


def kill_everything(process: psutil.Popen) -> None:
    """`kill -9` of a service with its broker, its replicas and Ray."""
    for member in [process, *process.children(recursive=True)]:
        os.kill(member.pid, signal.SIGKILL)
    process.wait(STOP_S)


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

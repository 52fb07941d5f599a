"""A whole service that ends, politely or not, and starts again on its data."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.service_process import running_service, submit

pytestmark = pytest.mark.slow

LONG = {"num_inference_steps": 50, "batch": 2, "width": 256, "height": 256}


@pytest.mark.parametrize("end", ["ctrl-C", "kill -9 of everything"])
def test_queued_tasks_survive_a_restart_of_the_whole_service(
    tmp_path: Path, poll: Callable[..., Any], end: str
) -> None:
    with running_service(tmp_path, poll) as (client, process):
        tasks = [submit(client, **LONG) for _ in range(2)] + [submit(client, num_inference_steps=2) for _ in range(4)]
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

"""A burst, more load than a service can bear, an end amid work. (Nodes that come and go: `python -m tests.cluster`.)"""

import json
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import httpx
import pytest
import ray
from ray.exceptions import RaySystemError

from loadtest.bench import overload, scaling
from serve_app.launcher import DRAIN_TIMEOUT_S, ServiceOptions, free_port, run_service
from tests.support.service import config_file


@pytest.mark.slow
def test_overload_is_answered_with_nothing_but_what_it_may_be_answered_with(monkeypatch: pytest.MonkeyPatch) -> None:
    # A slow machine gets few requests in that time: with the benchmark's own queue all of them would fit.
    monkeypatch.setattr(overload, "MAX_TASKS", 8)
    found = overload.measure(seconds=40, capacity_s=12)
    assert found.answers.wrong == []
    assert found.answers.statuses["200"] > 0
    assert found.answers.statuses["503"] > 0
    assert json.loads(json.dumps(asdict(found)))["answers"]["statuses"] == found.answers.statuses


@pytest.mark.parametrize(
    "stages",
    [
        pytest.param(("AvatarWorker", "AvatarGenerator"), marks=pytest.mark.slow),  # those with policies of their own
        pytest.param(scaling.STAGES, marks=pytest.mark.long),
    ],
    ids=len,
)
def test_a_burst_brings_a_second_replica_of_a_stage(tmp_path: Path, stages: tuple[str, ...]) -> None:
    # In a process of its own: the handles of Serve that it calls go on reporting to a controller after Ray has ended.
    figures = tmp_path / "scaling.json"
    command = [sys.executable, "-m", "loadtest.bench.scaling", "--rounds", "1", "--json", str(figures)]
    command += ["--stages", *stages]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert figures.is_file(), ended.stderr  # 1 is also the status where a replica comes, but late
    found = json.loads(figures.read_text())
    assert found.keys() == set(stages)
    assert found[scaling.WITH_TORCH]["parts_s"].keys() >= {"process", "import", "load", "warm"}


@pytest.mark.slow
def test_a_service_that_ends_amid_a_request_longer_than_its_drain_leaves_no_ray_and_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    config = config_file(tmp_path, fetch={"allow_private": True, "timeout_s": 10 * DRAIN_TIMEOUT_S})
    options = ServiceOptions(config=config, port=free_port(), data_dir=tmp_path / "data")
    with socket.create_server(("127.0.0.1", 0)) as photos, ThreadPoolExecutor(1) as pool:
        photos.settimeout(60)
        with run_service(options) as running:
            photo = f"http://127.0.0.1:{photos.getsockname()[1]}/never.png"
            request = partial(httpx.post, headers={"Authorization": f"Bearer {running.token}"}, timeout=600)
            body = {"app_id": "face-avatar", "file_url": photo}
            asked = pool.submit(request, f"{running.url}/getImageToImage", json=body)
            connection, _ = photos.accept()
        connection.close()
        assert isinstance(asked.exception(), httpx.TransportError)
    with pytest.raises(RaySystemError):
        ray.put(1)  # as threads of Serve's handles call Ray after it; another one would start
    assert not ray.is_initialized()
    assert set(threading.enumerate()) <= before

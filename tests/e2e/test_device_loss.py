"""A device that breaks under a replica costs time only: no request fails, and the replica goes."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import yaml
from ray.util.state import list_actors

from serve_app.launcher import ServiceOptions, free_port, run_service
from tests.support.breaking_devices import FAULTS, tell
from tests.support.photo_server import FETCH_TIMEOUT_S
from tests.support.service import REQUEST_TIMEOUT_S, Service, config_file

pytestmark = pytest.mark.slow
# onnxruntime's only provider beside the CPU's that needs no device: what it cannot do, the CPU does.
PROVIDERS = ["AzureExecutionProvider", "CPUExecutionProvider"]
REQUESTS = 4


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, photo_server: str) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    config = config_file(folder, fetch={"allow_private": True, "timeout_s": FETCH_TIMEOUT_S})
    deployed = yaml.safe_load(config.read_text())
    (application,) = deployed["applications"]
    application["import_path"] = "tests.support.breaking_devices:build_app"
    for stage in ("face", "background"):
        application["args"][stage]["model"]["providers"] = PROVIDERS
    config.write_text(yaml.safe_dump(deployed))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(FAULTS, str(folder))
        with run_service(ServiceOptions(config=config, port=free_port(), data_dir=folder / "data")) as running:
            headers = {"Authorization": f"Bearer {running.token}"}
            with httpx.Client(base_url=running.url, headers=headers, timeout=REQUEST_TIMEOUT_S) as client:
                yield Service(running.url, running.data_dir, photo_server, client)


def replica_pids(deployment: str) -> set[int]:
    address = ray.get_runtime_context().gcs_address  # other clusters may run on this machine
    actors = list_actors(address, filters=[("state", "=", "ALIVE")], limit=1000)
    return {int(actor.pid) for actor in actors if f":{deployment}" in actor.class_name}


@pytest.mark.parametrize(
    ("fault", "deployment"),
    [
        ("sticky", "AvatarGenerator"),
        ("hang", "AvatarGenerator"),
        ("embedder", "FaceEmbedder"),
        ("remover", "BackgroundRemover"),
    ],
)
def test_no_request_fails_and_the_replica_is_replaced(
    service: Service, poll: Callable[..., Any], fault: str, deployment: str
) -> None:
    fields = {"num_inference_steps": 4, "width": 256, "height": 256, "remove_background": True, "deadline_s": 500}
    assert service.make(**fields)["status"] == "SUCCESS"  # steps are measured
    (broken,) = replica_pids(deployment)
    folder = Path(os.environ[FAULTS])
    with ThreadPoolExecutor(REQUESTS) as pool:
        tell(folder, fault)
        answers = list(pool.map(lambda seed: service.post(seed=seed, **fields), range(REQUESTS)))
    assert [answer.status_code for answer in answers] == [200] * REQUESTS, [answer.text[:500] for answer in answers]
    assert not (folder / fault).exists()
    poll(lambda: (pids := replica_pids(deployment)) and broken not in pids)
    assert service.make(**fields)["status"] == "SUCCESS"

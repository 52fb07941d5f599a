"""A batch on the sleeping curve, with a `kill -9` of everything in its middle."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from redis import Redis

from serve_app.backends.redis import BrokerSettings, own_url
from serve_app.launcher import CONFIG
from serve_app.tasks.keys import TaskKeys
from tests.chaos.service import photo
from tests.support.batches import BATCHES, NDJSON
from tests.support.service_process import kill_everything, running_service

CHUNK = 50
FINISH_S = 600
KEYS = TaskKeys(BrokerSettings().prefix)
SMALL = {"app_id": "face-avatar", "width": 256, "height": 256, "num_inference_steps": 1}


def config(folder: Path) -> Path:
    """Of a service whose generator sleeps; other stages are the real ones, as many as two processors bear."""
    read = yaml.safe_load(CONFIG.read_text())
    (application,) = read["applications"]
    application["import_path"] = "loadtest.bench.peers.sleeping:build_app"
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(read))
    return path


def chunks(names: list[str]) -> Iterator[bytes]:
    for first in range(0, len(names), CHUNK):
        lines = ({"custom_id": name, "file_url": photo(faceless=False)} for name in names[first : first + CHUNK])
        yield "\n".join(map(json.dumps, lines)).encode()


def send(client: httpx.Client, url: str, names: list[str]) -> int:
    """How many the batch did not have."""
    added = 0
    for chunk in chunks(names):
        answer = client.post(f"{url}/requests", content=chunk, headers=NDJSON)
        assert answer.status_code == 200, answer.text
        added += answer.json()["output"]["added"]
    return added


def counts(client: httpx.Client, url: str) -> dict[str, int]:
    found: dict[str, int] = client.get(url).json()["output"]["batch"]["counts"]
    return found


@pytest.mark.parametrize(
    "requests", [pytest.param(100, marks=pytest.mark.slow), pytest.param(1000, marks=pytest.mark.long)]
)
def test_each_request_of_a_batch_has_one_result_though_everything_was_killed(
    tmp_path: Path, poll: Callable[..., Any], requests: int
) -> None:
    names, options = [f"photo-{number}" for number in range(requests)], ("--config", str(config(tmp_path)))
    data_dir = tmp_path / "data"
    with running_service(data_dir, poll, *options) as (client, process):
        opened = client.post(BATCHES, json={"defaults": SMALL}).json()["output"]["batch"]
        url = f"{BATCHES}/{opened['batch_id']}"
        assert send(client, url, names[: requests // 2]) == requests // 2
        poll(lambda: counts(client, url)["succeeded"] >= requests // 5, FINISH_S)
        kill_everything(process)
    with running_service(data_dir, poll, *options) as (client, process):
        assert send(client, url, names) == requests - requests // 2
        assert client.post(f"{url}/close").json()["error"] == ""
        poll(lambda: client.get(url).json()["output"]["batch"]["state"] == "finished", FINISH_S)
        lines = [json.loads(line) for line in client.get(f"{url}/results").content.splitlines()]
        attempts = attempts_of(data_dir)
    assert Counter(line["custom_id"] for line in lines) == dict.fromkeys(names, 1)
    assert {line["envelope"]["status"] for line in lines} == {"SUCCESS"}
    # One task for each; twice began only what a worker had when it was killed.
    assert attempts.keys() == {line["envelope"]["task_id"] for line in lines}
    again = [count for count in attempts.values() if count > 1]
    assert set(again) <= {2}
    assert len(again) <= 2 * 4  # workers, and tasks at once of each


def attempts_of(data_dir: Path) -> dict[str, int]:
    """How often each task that the broker has was begun."""
    with Redis.from_url(own_url(data_dir), decode_responses=True) as broker:
        names = [str(name) for name in broker.scan_iter(KEYS.record("*"), count=1000)]
        return {name.removeprefix(KEYS.record("")): int(broker.hget(name, "attempts") or 0) for name in names}

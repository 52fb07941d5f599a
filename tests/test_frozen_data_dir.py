"""The data directory that an earlier version left is one that a service goes on with."""

import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.frozen.data_dir import later, unpack
from tests.frozen.surface import FROZEN
from tests.frozen.write_data_dir import (
    IDEMPOTENCY_KEY,
    bearer,
    make,
    running,
    task,
    tokens,
    verdict,
    webhook_secret,
)
from tests.support.polling import poll

LINKS = ("result", "low_res_urls")  # signed anew in every answer
DONE_S = 240
LATER_OUTPUT: dict[str, Any] = {"warnings": []}  # that answers of the earlier version do not have
LATER_INPUT = {
    "file_urls": None, "style": None, "quality": "standard", "previews": False, "start_deadline_s": None,
    "fallback_app_id": None, "fallback_from": None,
}  # fmt: skip
LATER_RECEIPT = {"photos": 1, "style": None, "quality": "standard", "fallback_from": None, "lora_scales": {}}
LATER_LIMITS = {"images_per_day": 0}  # that tokens of the earlier version do not have


def test_the_moments_of_a_log_move_together_and_nothing_else_does() -> None:
    log = b'$13\r\n1700000010123\r\n{"submitted_at":1700000010.25}\r\n1700000009999-0\r\nff-1700000010 17000000101\r\n9'
    moved = later(log, 1_700_000_020, 1000)
    assert moved == log.replace(b"1700000010123", b"1700001010123").replace(b"1700000010.", b"1700001010.").replace(
        b"1700000009999", b"1700001009999"
    )


@pytest.mark.slow
@pytest.mark.ray
def test_a_service_goes_on_with_the_data_directory_of_an_earlier_version(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    facts = unpack(data_dir)
    own, team = facts["own"], facts["team"]
    with running(data_dir, "--config", FROZEN / "embedded.yaml") as client:
        for token, before in facts["over"].items():
            for envelope in before:
                assert without_links(task(client, token, envelope["task_id"])) == without_links(envelope)
        assert (data_dir / "token").read_text().strip() == own
        assert told_of(tokens(data_dir)) == told_of(facts["tokens"])
        assert webhook_secret(client, own) == facts["webhook_secret"]
        check_results(client, own, facts)
        check_rights(client, own, team, facts)
        for token, task_ids in facts["queued"].items():
            for task_id in task_ids:
                poll(lambda token=token, task_id=task_id: is_over(task(client, token, task_id)), DONE_S)
                done = task(client, token, task_id)
                assert done["status"] == "SUCCESS", done
                for url in done["output"]["result"]:
                    assert client.get(url).status_code == 200


def check_results(client: httpx.Client, own: str, facts: dict[str, Any]) -> None:
    """They are served, byte for byte, under new URLs; the old ones are as good as their time; and they are ours."""
    finished = facts["over"][own][0]
    urls = task(client, own, finished["task_id"])["output"]["result"]
    assert [hashlib.sha256(client.get(url).content).hexdigest() for url in urls] == facts["sha256"]
    for url in finished["output"]["result"]:
        old = client.get(httpx.URL(url).raw_path.decode())
        assert old.status_code == 200 or "expired" in old.json()["error_data"]["message"]
    assert verdict(client, own, client.get(urls[0]).content) == facts["verdict"]


def check_rights(client: httpx.Client, own: str, team: str, facts: dict[str, Any]) -> None:
    """The token that was made sees its own tasks alone, and may not end them."""
    (of_team,) = facts["over"][team]
    repeated = make(client, team, 200, key=IDEMPOTENCY_KEY, seed=2)
    assert repeated["task_id"] == of_team["task_id"]
    path, others = f"/api/v1/tasks/{of_team['task_id']}", f"/api/v1/tasks/{facts['over'][own][0]['task_id']}"
    assert client.delete(path, headers=bearer(team)).status_code == 403
    assert client.get(others, headers=bearer(team)).status_code == 404
    assert client.get(path, headers=bearer(own + "x")).status_code == 401


def is_over(envelope: dict[str, Any]) -> bool:
    return envelope["status"] not in ("PENDING", "STARTED")


def without_links(envelope: dict[str, Any]) -> dict[str, Any]:
    output = {name: value for name, value in envelope["output"].items() if name not in LINKS}
    if "receipts" in output:
        output["receipts"] = [LATER_RECEIPT | receipt for receipt in output["receipts"]]
    return envelope | {"input": LATER_INPUT | envelope["input"], "output": LATER_OUTPUT | output}


def told_of(listed: list[dict[str, Any]]) -> list[Any]:
    """What operators are told of tokens, but for when and how much they were used."""
    return [
        [each[name] for name in ("name", "id", "owner", "scopes")]
        + [LATER_LIMITS | each["limits"]]
        + [None if each["expires_at"] is None else round(each["expires_at"] - each["created_at"])]
        for each in listed
    ]

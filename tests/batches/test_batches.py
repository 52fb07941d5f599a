"""Batches over HTTP, on a real Valkey and a real store, from their first request to the file of results."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.backends.object_store import photo_key, request_key
from serve_app.batches.models import Ending
from serve_app.batches.store import BatchStore
from serve_app.errors import BrokerError, ImageUrlError
from serve_app.photos.source import PhotoSource
from tests.support.batches import BATCHES, DEFAULTS, NDJSON, Press, added, lines, opened, results, view
from tests.support.http_clients import browsing
from tests.support.ingresses import Ingress, ScenarioRunner, scenario_runner
from tests.support.photos import photo_files
from tests.support.stores import exists

Scenario = Callable[[httpx.AsyncClient, Press], Any]


@pytest.fixture
def at(valkey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    runner: ScenarioRunner = scenario_runner(valkey, tmp_path, monkeypatch)

    def run(scenario: Scenario, **settings: Any) -> None:
        async def within(make: Callable[..., Ingress]) -> None:
            ingress = make("picture", **settings)
            async with browsing(ingress, tmp_path) as (client, _):
                await scenario(client, Press(ingress, tmp_path))

        runner(within)

    return run


def test_a_batch_is_filled_in_chunks_drawn_and_read_line_by_line(at: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        batch_id = await opened(
            client, defaults={"app_id": "face-avatar", "batch": 2}, ref_id="order", metadata={"a": "b"}
        )
        answer = await added(client, batch_id, lines("ab"))
        assert answer.status_code == 200, answer.text
        assert answer.json()["output"]["added"] == 2
        photo = photo_files()["astronaut.png"]
        parts = [("c", ("c.png", photo)), ("d", ("1.png", photo)), ("d", ("2.png", photo))]
        line = json.dumps({"custom_id": "c", "batch": 1, "ref_id": "c"})
        answer = await client.post(f"{BATCHES}/{batch_id}/requests", files=parts, data={"requests": line})
        assert answer.status_code == 200, answer.text
        seen = await view(client, batch_id)
        assert (seen["state"], seen["ref_id"], seen["metadata"]) == ("open", "order", {"a": "b"})
        assert seen["counts"] == {"total": 4, "waiting": 4, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0}
        await press.run()
        assert (await client.post(f"{BATCHES}/{batch_id}/close")).json()["status"] == "SUCCESS"
        seen = await view(client, batch_id)
        assert (seen["state"], seen["counts"]["succeeded"]) == ("finished", 4)
        made = await results(client, batch_id)
        assert [(line["index"], line["custom_id"]) for line in made] == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]
        assert [line["envelope"]["input"]["batch"] for line in made] == [2, 2, 1, 2]
        assert all("signature=" in line["envelope"]["output"]["result"][0] for line in made)
        assert [line["envelope"]["input"]["priority"] for line in made] == ["low"] * 4
        assert made[3]["envelope"]["input"]["file_urls"] is not None
        assert [line["index"] for line in await results(client, batch_id, after=3)] == [4]
        listed = (await client.get(BATCHES)).json()["output"]["batches"]
        assert [batch["batch_id"] for batch in listed] == [batch_id]

    at(scenario)


def test_a_chunk_is_added_whole_or_not_at_all_and_each_problem_names_its_line(at: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        batch_id = await opened(client)
        bad = [
            {"custom_id": "a", **DEFAULTS},
            {"custom_id": "b", **DEFAULTS, "batch": 99, "nonsense": 1},
            {"custom_id": "c", **DEFAULTS, "app_id": "absent"},
            {"custom_id": "a", **DEFAULTS},
            {**DEFAULTS},
            {"custom_id": "d", "app_id": "face-avatar"},
            {"custom_id": "e", **DEFAULTS, "celery": False, "priority": "low"},
        ]
        answer = await added(client, batch_id, b"\n".join(json.dumps(line).encode() for line in bad) + b"\n{\n")
        assert (answer.status_code, answer.json()["error"]) == (422, "Invalid Request")
        told = [(each["line"], each["custom_id"], each["field"]) for each in answer.json()["error_data"]["fields"]]
        assert told == [(8, "", "body")]  # what is no JSON, first
        answer = await added(client, batch_id, b"\n\n".join(json.dumps(line).encode() for line in bad))
        told = [(each["line"], each["custom_id"], each["field"]) for each in answer.json()["error_data"]["fields"]]
        assert told == [
            (3, "b", "batch"),
            (3, "b", "nonsense"),
            (7, "a", "custom_id"),
            (9, "", "custom_id"),
            (11, "d", "file_url"),
            (13, "e", "celery"),
        ]
        answer = await added(client, batch_id, lines("a") + lines("c", app_id="absent"))
        told = [(each["line"], each["field"]) for each in answer.json()["error_data"]["fields"]]
        assert (answer.status_code, told) == (422, [(2, "app_id")])
        assert (await view(client, batch_id))["counts"]["total"] == 0

    at(scenario)


def test_a_photo_that_cannot_be_used_keeps_its_chunk_out_and_leaves_no_file(at: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        intake, photos = press.ingress.service.intake, press.ingress.service.intake.photos

        async def one_is_broken(sources: list[PhotoSource], owner: str) -> Any:
            if "broken" in sources[0].url:
                raise ImageUrlError("no picture", reason="broken")
            return await photos(sources, owner)

        intake.photos = one_is_broken  # type: ignore[method-assign,assignment]
        batch_id = await opened(client)
        broken = lines("b", file_url="https://example.org/broken.jpg")
        answer = await added(client, batch_id, lines("a") + broken)
        (told,) = answer.json()["error_data"]["fields"]
        assert (told["line"], told["custom_id"], told["field"], told["reason"]) == (2, "b", "file_url", "broken")
        assert (await view(client, batch_id))["counts"]["total"] == 0
        assert press.files() == []

    at(scenario)


def test_a_chunk_that_comes_again_adds_nothing_and_a_changed_request_is_refused(at: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        batch_id = await opened(client)
        both = await asyncio.gather(*(added(client, batch_id, lines("ab")) for _ in range(2)))
        assert sorted(answer.json()["output"]["added"] for answer in both) == [0, 2]
        assert (await added(client, batch_id, lines("bc"))).json()["output"]["added"] == 1
        answer = await added(client, batch_id, lines("d") + lines("a", seed=3))
        (told,) = answer.json()["error_data"]["fields"]
        assert (answer.status_code, told["line"], told["custom_id"]) == (422, 2, "a")
        assert (await view(client, batch_id))["counts"]["total"] == 3
        await client.post(f"{BATCHES}/{batch_id}/close")
        assert (await added(client, batch_id, lines("ab"))).json()["output"]["added"] == 0
        assert (await added(client, batch_id, lines("e"))).status_code == 409
        await press.run()
        assert press.drawn == {"a": 1, "b": 1, "c": 1}
        assert [line["custom_id"] for line in await results(client, batch_id)] == ["a", "b", "c"]
        # No request is left, nor the files of an attempt that added nothing; this worker deletes no photos.
        assert [path.suffix for path in press.files()] == [".webp"] * 3

    at(scenario)


def test_batches_of_others_are_not_there(at: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        batch_id, other = await opened(client), await press.token("other")
        asked = [
            await client.get(f"{BATCHES}/{batch_id}", headers=other),
            await client.get(f"{BATCHES}/{batch_id}/results", headers=other),
            await client.post(f"{BATCHES}/{batch_id}/close", headers=other),
            await client.delete(f"{BATCHES}/{batch_id}", headers=other),
            await added(client, batch_id, lines("a"), **other),
        ]
        assert [(answer.status_code, answer.json()["error"]) for answer in asked] == [(404, "Unknown Batch")] * 5
        assert (await client.get(BATCHES, headers=other)).json()["output"]["batches"] == []
        assert (await view(client, batch_id))["state"] == "open"

    at(scenario)


@pytest.mark.parametrize(
    ("limits", "made"),
    [({"queued": 4}, 2), ({"images_per_day": 3}, 3), ({"requests_per_minute": 3}, 3)],
    ids=str,
)
def test_a_batch_waits_for_the_limits_of_its_token(at: Callable[..., None], limits: dict[str, int], made: int) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        client.headers.update(await press.token("small", **limits))
        batch_id = await opened(client)
        assert (await added(client, batch_id, lines("abcdef"))).status_code == 200
        await press.feed()
        await press.feed()
        assert len(await press.waiting(batch_id)) == 6 - made
        assert len(await press.draw()) == made
        await press.feed()
        counts = (await view(client, batch_id))["counts"]
        assert counts["failed"] == 0
        assert counts["succeeded"] == made
        assert len(await press.waiting(batch_id)) == (6 - 2 * made if "queued" in limits else 6 - made)

    at(scenario)


def test_a_request_that_would_miss_its_deadline_holds_up_no_other(at: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        pace = {"task_s": "20", "image_s": "20"}
        await press.ingress.redis.hset(press.ingress.keys.throughput, mapping=pace)
        batch_id = await opened(client)
        await added(client, batch_id, lines("a", deadline_s=5) + lines("bc"))
        await press.feed()
        assert [item.custom_id for item in await press.waiting(batch_id)] == ["a"]
        await press.draw()
        await press.ingress.redis.delete(press.ingress.keys.throughput)
        await press.run()
        assert press.drawn == {"a": 1, "b": 1, "c": 1}

    at(scenario)


def test_a_cancelled_batch_ends_what_waits_and_runs_and_keeps_what_is_done(at: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        batch_id = await opened(client)
        await added(client, batch_id, lines("abcd"))
        await press.feed()
        await press.draw(1)
        waiting = await press.waiting(batch_id)
        answer = await client.delete(f"{BATCHES}/{batch_id}")
        assert (answer.status_code, answer.json()["status"]) == (200, "CANCELLED")
        counts = answer.json()["output"]["batch"]["counts"]
        assert (counts["succeeded"], counts["cancelled"], counts["total"]) == (1, 3, 4)
        assert [await exists(press.ingress.results, photo_key(item.task_id)) for item in waiting] == [False, False]
        await press.run()
        assert press.drawn == {"a": 1}
        made = {line["custom_id"]: line["envelope"]["status"] for line in await results(client, batch_id)}
        assert made == {"a": "SUCCESS", "b": "CANCELLED", "c": "CANCELLED", "d": "CANCELLED"}
        assert (await client.delete(f"{BATCHES}/{batch_id}")).json()["output"]["batch"]["counts"] == counts
        assert (await view(client, batch_id))["finished_at"] is not None

    at(scenario, batches={"queued_at_once": 2})


def test_a_cancelled_batch_whose_ingress_died_is_ended_by_the_feeder(at: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        batch_id = await opened(client)
        await added(client, batch_id, lines("abc"))
        await press.feed()
        await press.store.give_up_waiting(batch_id, Ending.CANCELLED)  # and nothing more
        await press.feed()
        assert await press.draw() == []
        seen = await view(client, batch_id)
        assert (seen["state"], seen["counts"]["cancelled"], seen["counts"]["total"]) == ("cancelled", 3, 3)
        assert await press.store.active() == []

    at(scenario)


def test_a_batch_ends_with_its_token_and_with_its_time(at: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        late = await opened(client)
        await added(client, late, lines("a"))
        record = await press.store.get(late)
        assert record is not None
        over = record.batch.model_copy(update={"deadline": time.time() - 1})
        await press.ingress.redis.hset(press.ingress.redis.key("batch", late), "batch", over.model_dump_json())
        header = await press.token("leaked")
        leaked = (await client.post(BATCHES, json={}, headers=header)).json()["output"]["batch"]["batch_id"]
        await added(client, leaked, lines("b"), **header)
        await press.ingress.redis.delete(press.ingress.redis.key("tokens"))
        await press.run()
        assert press.drawn == {}
        (line,) = await results(client, late)
        assert (line["custom_id"], line["envelope"]["status"], line["envelope"]["error"]) == ("a", "FAILED", "Timeout")
        assert (await view(client, late))["state"] == "finished"
        ended = await press.store.get(leaked)
        assert ended is not None
        assert (ended.state, ended.cancelled) == ("cancelled", 1)

    at(scenario)


def test_photos_stay_while_their_requests_wait_and_no_longer(at: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        batch_id = await opened(client)
        await added(client, batch_id, lines("ab"))
        (first, second) = await press.waiting(batch_id)
        results = press.ingress.results
        await results.put(photo_key("01a2048f-977f-7c63-ae41-e05892df70f1"), b"of a chunk whose ingress died")
        await press.sweep(press.files())
        assert len(press.files()) == 4
        await press.feed()
        await press.sweep(press.files())
        assert await exists(results, photo_key(first.task_id))
        await press.draw()
        await press.feed()
        await press.sweep(press.files())
        assert press.files() == []
        assert not await exists(results, request_key(second.task_id))

    at(scenario)


def test_a_batch_is_bounded_in_requests_and_an_owner_in_batches(at: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        batch_id = await opened(client)
        assert (await added(client, batch_id, lines("abcd"))).status_code == 422
        assert (await added(client, batch_id, lines("abc"))).status_code == 200
        assert (await added(client, batch_id, lines(map(str, range(101))))).status_code == 422
        await opened(client)
        assert (await client.post(BATCHES, json={})).status_code == 429
        await client.delete(f"{BATCHES}/{batch_id}")
        assert (await client.post(BATCHES, json={})).status_code == 200

    at(scenario, batches={"max_requests": 3, "max_unfinished": 2})


def test_a_batch_is_bounded_in_bytes(at: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        batch_id = await opened(client)
        await press.ingress.redis.hset(press.ingress.redis.key("batch", batch_id), "bytes", str(1024**2))
        answer = await added(client, batch_id, lines("a"))
        assert (answer.status_code, answer.json()["error_data"]["max_bytes"]) == (413, 1024**2)
        assert press.files() == []

    at(scenario, batches={"max_bytes": 1024**2})


def test_an_idempotency_key_stands_for_one_batch(at: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        key = {"Idempotency-Key": "k"}
        first, again = [(await client.post(BATCHES, json={"ref_id": "a"}, headers=key)).json() for _ in range(2)]
        assert first["output"]["batch"]["batch_id"] == again["output"]["batch"]["batch_id"]
        assert (await client.post(BATCHES, json={"ref_id": "b"}, headers=key)).status_code == 409

    at(scenario)


@pytest.mark.parametrize(
    "body",
    [
        {"defaults": {"file_url": "https://example.org/me.jpg"}},
        {"defaults": {"batch": 99}},
        {"defaults": {"priority": "normal"}},
        {"metadata": {"a": 1}},
        {"nonsense": 1},
    ],
    ids=str,
)
def test_a_batch_that_could_hold_no_request_is_not_opened(at: Callable[..., None], body: dict[str, Any]) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        answer = await client.post(BATCHES, json=body)
        assert (answer.status_code, answer.json()["error"]) == (422, "Invalid Request")
        assert (await client.get(BATCHES)).json()["output"]["batches"] == []

    at(scenario)


def test_other_kinds_of_bodies_are_refused(at: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        batch_id = await opened(client)
        url = f"{BATCHES}/{batch_id}/requests"
        assert (await client.post(url, json={"custom_id": "a"})).status_code == 415
        answer = await client.get(f"{BATCHES}/{batch_id}/results", params={"after": "-1"})
        assert (answer.status_code, answer.json()["error"]) == (422, "Invalid Request")
        assert (await client.post(url, content=b"", headers=NDJSON)).status_code == 422
        assert (await client.post(url, files=[("a", ("a.png", b"x"))] * 5)).status_code == 422
        assert (await client.post(url, files={"b": ("b.png", b"x")}, data={"a": "text"})).status_code == 422

    at(scenario)


def test_a_chunk_whose_answer_of_the_broker_is_lost_keeps_its_files(
    at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(client: httpx.AsyncClient, press: Press) -> None:
        batch_id, add = await opened(client), BatchStore.add

        async def add_without_answer(*arguments: Any) -> Any:
            await add(*arguments)
            raise BrokerError("The broker does not answer.", 1)

        with monkeypatch.context() as patch:
            patch.setattr(BatchStore, "add", add_without_answer)
            assert (await added(client, batch_id, lines("ab"))).status_code == 503
        assert (await added(client, batch_id, lines("ab"))).json()["output"]["added"] == 0
        await press.run()
        assert press.drawn == {"a": 1, "b": 1}

    at(scenario)

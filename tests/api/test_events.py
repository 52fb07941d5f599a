"""Following tasks: what a listener hears, over the ASGI application, on a real Valkey and a real store."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.api.sse import check_room, last_event_id
from serve_app.auth.tokens import TokenStore
from serve_app.auth.webhook_signature import webhook_secret
from serve_app.backends.redis import BrokerSettings, connect
from serve_app.backends.secrets import renew_token
from serve_app.errors import OverloadedError, RateLimitError, UnknownTaskError
from serve_app.tasks.models import TaskRecord
from tests.support.http_clients import browsing
from tests.support.ingresses import Ingress, ScenarioRunner, scenario_runner
from tests.support.listeners import listening, token_of_ann
from tests.support.polling import eventually
from tests.support.tasks import AVATAR, queued, task

At = Callable[..., None]


Scenario = Callable[[Callable[..., Ingress]], Awaitable[None]]


@pytest.fixture
def at(valkey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScenarioRunner:
    return scenario_runner(valkey, tmp_path, monkeypatch)


def test_a_listener_hears_of_every_change_up_to_the_final_envelope(at: At) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, worker = make(), make()
        await queued(ingress.tasks, "a", batch=2)
        async with listening(ingress) as (listener,):
            await listener.heard(1)
            await worker.tasks.claim("a")
            await listener.heard(2)
            await worker.tasks.note_image("a", 0, AVATAR)
            await listener.heard(3)
            record = await ingress.service.find("a", "ann")
            outcome = record.outcome.model_copy(update={"avatars": (AVATAR,)})
            await worker.tasks.finish(record.task, "SUCCESS", outcome)
            await listener.reading  # the stream ends by itself
        revisions, names, envelopes = zip(*listener.events, strict=True)
        assert names == ("progress", "progress", "progress", "finished")
        assert list(revisions) == sorted(set(revisions))
        assert [envelope["status"] for envelope in envelopes] == ["PENDING", "STARTED", "STARTED", "SUCCESS"]
        assert [envelope["output"]["progress"]["images_done"] for envelope in envelopes[:-1]] == [0, 0, 1]
        assert envelopes[0]["output"]["progress"]["queue_position"] == 1
        assert envelopes[-1]["output"]["result"][0].startswith("http://service/files/a/0.png")

    at(scenario)


def test_many_listeners_share_one_reader_which_ends_with_the_last(at: At) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make()
        await queued(ingress.tasks, "a")
        reads = await _calls(ingress, "xread")
        async with listening(ingress, count=30) as listeners:
            for listener in listeners:
                await listener.heard(1)
            await ingress.tasks.claim("a")
            for listener in listeners:
                await listener.heard(2)
            assert ingress.service.changes.listeners == 30
            assert await _calls(ingress, "xread") - reads < 10
        assert ingress.service.changes.listeners == 0
        assert ingress.service.changes._reader is None

    at(scenario)


async def _calls(ingress: Ingress, command: str) -> int:
    stats: Any = await ingress.redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


def test_a_client_that_comes_back_hears_only_what_is_new(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.api.sse.HEARTBEAT_S", 0.1)

    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, other = make(), make()
        await queued(ingress.tasks, "a")
        async with listening(ingress) as (listener,):
            await listener.heard(1)
        async with listening(other, seen=listener.events[-1][0]) as (again,):  # another replica
            await eventually(lambda: asyncio.sleep(0, again.heartbeats >= 2))
            assert again.events == []
            await ingress.tasks.cancel("a")
            await again.reading
        assert [(name, envelope["status"]) for _id, name, envelope in again.events] == [("finished", "CANCELLED")]

    at(scenario)


def test_a_broker_that_is_away_for_a_while_ends_no_stream(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.api.sse.HEARTBEAT_S", 0.1)

    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make()
        await queued(ingress.tasks, "a")
        async with listening(ingress) as (listener,):
            await listener.heard(1)
            find = ingress.service.find
            ingress.service.find = _away  # type: ignore[method-assign,assignment]
            heartbeats = listener.heartbeats
            await eventually(lambda: asyncio.sleep(0, listener.heartbeats > heartbeats))
            ingress.service.find = find  # type: ignore[method-assign]
            await ingress.tasks.cancel("a")
            await listener.reading
        assert listener.events[-1][1] == "finished"

    at(scenario)


async def _away(*_: object) -> TaskRecord:
    raise OverloadedError("away")


def test_a_stream_ends_in_time_for_a_replica_to_end(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.api.sse.HEARTBEAT_S", 0.05)
    monkeypatch.setattr("serve_app.api.sse.MAX_STREAM_S", 0.2)

    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make()
        await queued(ingress.tasks, "a")
        async with listening(ingress) as (listener,):
            await listener.reading
        assert [name for _id, name, _data in listener.events] == ["progress"]

    at(scenario)


def test_one_owner_does_not_take_all_the_room_for_listeners(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.api.sse.MAX_OF_ONE_OWNER", 1)

    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make()
        await queued(ingress.tasks, "a")
        async with listening(ingress) as (listener,):
            await listener.heard(1)
            with pytest.raises(RateLimitError):
                check_room(ingress.service, "ann")
            check_room(ingress.service, "bob")
        check_room(ingress.service, "ann")

    at(scenario)


def test_more_listeners_than_a_replica_has_room_for_are_refused(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.api.sse.MAX_LISTENERS", 2)

    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make()
        await queued(ingress.tasks, "a")
        check_room(ingress.service, "bob")
        async with listening(ingress, count=2) as listeners:
            for listener in listeners:
                await listener.heard(1)
            with pytest.raises(OverloadedError):
                check_room(ingress.service, "bob")

    at(scenario)


def test_the_tasks_of_others_are_unknown(at: At) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make()
        await ingress.tasks.create(task("a"), "PENDING")
        with pytest.raises(UnknownTaskError):
            await ingress.service.find("a", "bob")

    at(scenario)


def test_the_route_streams_to_the_end_and_then_says_that_there_is_no_more(at: At, tmp_path: Path) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make()
        async with browsing(ingress, tmp_path) as (client, owner):
            mine = task("a").model_copy(update={"owner": owner})
            await ingress.tasks.create(mine, "STARTED")
            following = asyncio.create_task(client.get("/api/v1/tasks/a/events"))
            await eventually(lambda: asyncio.sleep(0, ingress.service.changes.listeners))
            await ingress.tasks.cancel("a")
            answer = await following
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.text.startswith("retry: ")
            *_, last = answer.text.strip().split("\n\n")
            assert "event: finished" in last
            revision = last.splitlines()[0].removeprefix("id: ")
            seen = {"Last-Event-ID": revision}
            assert (await client.get("/api/v1/tasks/a/events", headers=seen)).status_code == 204
            await queued(ingress.tasks, "others")
            assert (await client.get("/api/v1/tasks/others/events")).status_code == 404
            other = {"Authorization": "Bearer other"}
            assert (await client.get("/api/v1/tasks/a/events", headers=other)).status_code == 401

    at(scenario)


def test_who_has_a_token_gets_the_secret_of_its_webhooks(at: At, tmp_path: Path) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        async with browsing(make(), tmp_path) as (client, owner):
            secret = (await client.get("/api/v1/webhook-secret")).json()["output"]["webhook_secret"]
            assert secret == webhook_secret(b"key", owner)
            assert (await client.get("/api/v1/webhook-secret", headers={"Authorization": ""})).status_code == 401

    at(scenario)


def test_a_stream_ends_as_soon_as_its_token_is_revoked(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.api.sse.HEARTBEAT_S", 3600)
    monkeypatch.setattr("serve_app.api.sse.CHECK_TOKEN_S", 3600)  # so that only the push can end it

    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, operator = make(), make()
        await queued(ingress.tasks, "a")
        revoked, other = [await token_of_ann(ingress, name) for name in ("revoked", "other")]
        async with listening(ingress, token=revoked) as (listener,), listening(ingress, token=other) as (kept,):
            await asyncio.gather(listener.heard(1), kept.heard(1))
            assert await TokenStore(operator.redis).revoke(revoked)
            async with asyncio.timeout(30):
                await listener.reading
            await ingress.tasks.claim("a")
            await kept.heard(2)
        assert [name for _id, name, _data in listener.events] == ["progress"]

    at(scenario)


@pytest.mark.parametrize("ends", ["expiry", "a push that was lost"])
def test_a_stream_ends_with_its_token_without_a_push(at: At, ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.api.sse.HEARTBEAT_S", 3600)
    monkeypatch.setattr("serve_app.api.sse.CHECK_TOKEN_S", 0.1)

    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make()
        await queued(ingress.tasks, "a")
        token = await token_of_ann(ingress, expires_at=time.time() + 3600 if ends == "expiry" else None)
        async with listening(ingress, token=token) as (listener,):
            await listener.heard(1)
            if ends == "expiry":
                later = SimpleNamespace(time=lambda: time.time() + 3600, monotonic=time.monotonic)
                monkeypatch.setattr("serve_app.auth.tokens.time", later)
            else:
                await ingress.redis.hdel(ingress.redis.key("tokens"), token.id)
            async with asyncio.timeout(30):
                await listener.reading
        assert [name for _id, name, _data in listener.events] == ["progress"]

    at(scenario)


def test_a_stream_ends_when_the_data_directorys_token_is_renewed(
    at: At, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.api.sse.HEARTBEAT_S", 3600)

    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make()
        async with browsing(ingress, tmp_path) as (client, owner):
            await queued(ingress.tasks, "a", owner=owner)
            following = asyncio.create_task(client.get("/api/v1/tasks/a/events"))
            await eventually(lambda: asyncio.sleep(0, ingress.service.changes.listeners))
            renew_token(tmp_path)
            async with asyncio.timeout(30):
                assert "finished" not in (await following).text
            assert (await client.get("/api/v1/tasks/a/events")).status_code == 401

    at(scenario)


def test_a_broker_that_is_away_revokes_no_token(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make()
        token = await token_of_ann(ingress)
        async with connect(BrokerSettings(url="unix:///nothing/here.sock"), Path()) as away:
            monkeypatch.setattr(ingress.access._tokens, "_redis", away)
            assert await ingress.access.is_current(token)
            assert not await ingress.access.is_current(token.model_copy(update={"expires_at": 1.0}))

    at(scenario)


@pytest.mark.parametrize(("header", "revision"), [("12", 12), (None, None), ("", None), ("-1", None), ("9" * 30, None)])
def test_an_id_that_is_not_ours_is_no_id(header: str | None, revision: int | None) -> None:
    assert last_event_id(header) == revision

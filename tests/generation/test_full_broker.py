"""A broker whose memory is full: new tasks are refused, and what is under way ends. The broker is small, and real."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from serve_app.auth.owner_use import OwnerUse
from serve_app.auth.tokens import TokenGrant, TokenStore
from serve_app.auth.usage import today
from serve_app.backends.broker_memory import NEARLY_FULL, MemoryWatch, read_memory
from serve_app.backends.redis import BrokerSettings, connect
from serve_app.catalog.catalog import Catalog
from serve_app.errors import BrokerFullError, OverloadedError
from serve_app.generation.execution import TaskExecution
from serve_app.generation.validation import Caller
from serve_app.tasks.models import Delivery, Outcome, Webhook
from serve_app.tasks.stream import TaskQueue
from serve_app.worker.consumer import TaskWorker
from serve_app.worker.recovery import Recovery
from serve_app.worker.retention import Retention
from tests.support.brokers import PROGRAMS, servers_of, valkey_server
from tests.support.http_clients import browsing
from tests.support.ingresses import LEASE_S, Ingress, ScenarioRunner, Sent, scenario_runner
from tests.support.pipelines import Pipeline
from tests.support.polling import eventually
from tests.support.tasks import AVATAR, task

SMALL_MB = 8
ANN = Caller("ann")
LONG = "\U0001f600" * 2000


@pytest.fixture(params=PROGRAMS)
def at(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScenarioRunner]:
    monkeypatch.setattr("serve_app.backends.broker_memory.FRESH_S", 0)
    with servers_of(request.param), valkey_server(tmp_path, max_memory_mb=SMALL_MB):
        yield scenario_runner(tmp_path, tmp_path, monkeypatch)


async def fill_with_tasks(ingress: Ingress) -> OverloadedError:
    """Send requests until one is refused; the answer to that."""
    for _ in range(1000):
        try:
            await ingress.send(Caller("bob"), prompt=LONG, negative_prompt=LONG).answer
        except OverloadedError as refusal:
            return refusal
    raise AssertionError("no task is refused")


async def make_full(ingress: Ingress) -> None:
    """Leave no room for a single byte, whatever the server frees of its buffers."""
    await ingress.redis.config_set("maxmemory", 1)


async def make_room(ingress: Ingress) -> None:
    """As if the records that fill it had expired."""
    records = {key async for key in ingress.redis.scan_iter(ingress.keys.record("*"))}
    await ingress.redis.unlink(*records)


@asynccontextmanager
async def worker_of(ingress: Ingress) -> AsyncIterator[Pipeline]:
    """The pipeline of a worker, whose tasks wait until its gate is set; the worker stops after the block."""
    pipeline = Pipeline(ingress.results, None)
    use = OwnerUse(ingress.redis)
    queue, catalog = queue_of(ingress), Catalog.read(["embedded"])
    execution = TaskExecution(catalog, pipeline, ingress.tasks, ingress.results, use, ingress.usage, queue)  # type: ignore[arg-type]
    worker = TaskWorker(ingress.tasks, queue, execution, ingress.results, concurrency=2)
    working = asyncio.create_task(worker.run())
    try:
        yield pipeline
    finally:
        await worker.close(grace_s=0)
        await working


def queue_of(ingress: Ingress) -> TaskQueue:
    return TaskQueue(ingress.redis, "worker", LEASE_S)


async def status_of(ingress: Ingress, sent: Sent) -> str:
    record = await ingress.tasks.get(sent.task.task_id)
    assert record is not None
    return record.status


async def lease_is_renewed(ingress: Ingress, sent: Sent) -> None:
    """Return when the lease of a task ends later than it did."""
    lease = ingress.keys.lease(sent.task.task_id)
    ends_at_ms = await ingress.redis.pexpiretime(lease)

    async def ends_later() -> bool:
        return await ingress.redis.pexpiretime(lease) > ends_at_ms

    await eventually(ends_later)


def test_new_tasks_are_refused_before_the_memory_is_full_and_accepted_when_there_is_room(
    at: Callable[..., None], tmp_path: Path
) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        known = await ingress.send().answer
        refusal = await fill_with_tasks(ingress)
        memory = await read_memory(ingress.redis)
        assert memory.max_bytes == SMALL_MB * 2**20
        assert NEARLY_FULL < memory.used_bytes / memory.max_bytes < NEARLY_FULL + 0.05
        assert "memory is nearly full" in str(refusal)
        for fields in ({}, {"celery": True}):
            with pytest.raises(OverloadedError, match="memory is nearly full"):
                await ingress.send(ANN, **fields).answer
        assert (await ingress.send().answer).task.task_id == known.task.task_id  # a repeat
        async with browsing(ingress, tmp_path) as (client, _owner):
            body = {"app_id": "face-avatar", "file_url": "https://example.org/me.jpg"}
            answer = await client.post("/getImageToImage", json=body)
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "30"
            assert answer.json()["error"] == "Overloaded"
            assert "memory is nearly full" in answer.json()["error_data"]["message"]
            await make_room(ingress)
            assert (await client.post("/getImageToImage", json=body)).json()["status"] == "SUCCESS"

    at(scenario)


def test_tasks_under_way_end_while_the_memory_is_full(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, others = make(None), make("picture")
        async with worker_of(others) as pipeline:
            running = ingress.send(ANN)
            queued = [ingress.send(ANN, celery=True) for _ in range(4)]
            await asyncio.gather(*(each.answer for each in queued))
            await eventually(lambda: asyncio.sleep(0, len(pipeline.jobs) == 2 and ingress.pipeline.jobs))
            await make_full(others)

            ingress.pipeline.gate.set()
            assert (await running.answer).status == "SUCCESS"
            assert await status_of(ingress, running) == "SUCCESS"
            taken = [each for each in queued if await status_of(ingress, each) == "STARTED"]
            waiting = [each for each in queued if each not in taken]
            assert (await ingress.service.cancel(waiting[0].task.task_id, "ann")).status == "CANCELLED"
            for each in taken:
                await lease_is_renewed(ingress, each)
                assert await status_of(ingress, each) == "STARTED"
            assert (await ingress.service.cancel(taken[0].task.task_id, "ann")).status == "CANCELLED"
            await eventually(lambda: asyncio.sleep(0, pipeline.cancelled == 1 and len(pipeline.jobs) == 3))
            pipeline.gate.set()
            for each in (taken[1], waiting[1]):
                await eventually(lambda each=each: _is(ingress, each, "SUCCESS"))
            await eventually(lambda: _queue_is_empty(ingress))

    at(scenario)


async def _is(ingress: Ingress, sent: Sent, status: str) -> bool:
    return await status_of(ingress, sent) == status


async def _queue_is_empty(ingress: Ingress) -> bool:
    return await queue_of(ingress).length() == 0


def test_a_worker_that_stops_hands_its_task_back_to_a_full_broker(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        async with worker_of(ingress) as pipeline:
            sent = ingress.send(ANN, celery=True)
            await sent.answer
            await eventually(lambda: asyncio.sleep(0, pipeline.jobs))
            await make_full(ingress)
        assert await status_of(ingress, sent) == "PENDING"
        (message,) = await eventually(lambda: queue_of(ingress).take(1, 0.01))
        assert message.task_id == sent.task.task_id

    at(scenario)


def test_lost_tasks_and_old_files_are_looked_after_while_the_memory_is_full(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        queue = queue_of(ingress)
        await queue.take(1, 0.01)  # makes the group
        lost = ingress.send(ANN, celery=True)
        await lost.answer
        await ingress.redis.xtrim(ingress.keys.queue, maxlen=0, approximate=False)
        await make_full(ingress)
        await Recovery(ingress.redis, ingress.tasks, queue, ingress.results, 60).run_once()
        await Retention(ingress.redis, ingress.tasks, ingress.results, 60).run_once()
        (message,) = await queue.take(1, 0.01)
        assert message.task_id == lost.task.task_id

    at(scenario)


def test_webhooks_are_called_while_the_memory_is_full(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        tasks = make("picture").tasks
        webhook = Webhook(url="https://example.org/hook", base_url="http://service")
        called = task("called").model_copy(update={"webhook": webhook})
        await tasks.create(called, "STARTED")
        await make_full(make("picture"))
        assert await tasks.finish(called, "SUCCESS", Outcome(avatars=(AVATAR,)))
        assert await tasks.due_webhooks(5, 5, {}, 60) == [("called", "ann")]
        await tasks.note_delivery("called", Delivery(attempts=1, status=500), time.time() - 1)
        assert await tasks.due_webhooks(5, 5, {}, 60) == [("called", "ann")]
        await tasks.note_delivery("called", Delivery(attempts=2, status=200), None)
        assert await tasks.due_webhooks(5, 5, {}, 60) == []
        record = await tasks.get("called")
        assert record is not None
        assert record.delivery == Delivery(attempts=2, status=200)

    at(scenario)


def test_tokens_still_work_and_are_revoked_while_the_memory_is_full(at: Callable[..., None], tmp_path: Path) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        store = TokenStore(ingress.redis)
        secret = await store.add(TokenGrant("ann", owner="ann"))
        sent = ingress.send(ANN)
        await sent.answer
        async with browsing(ingress, tmp_path) as (client, _owner):
            path, bearer = f"/api/v1/tasks/{sent.task.task_id}", {"Authorization": f"Bearer {secret}"}
            await make_full(ingress)
            assert (await client.get(path, headers=bearer)).status_code == 200  # its rate cannot be counted
            token = await store.named("ann")
            assert token is not None
            assert await store.revoke(token)

            async def is_refused() -> bool:
                return (await client.get(path, headers=bearer)).status_code == 401

            async with asyncio.timeout(5):  # a broker that is away would have it work for an hour
                await eventually(is_refused)
            with pytest.raises(BrokerFullError):
                await store.add(TokenGrant("bob"))

    at(scenario)


def test_usage_is_counted_once_when_there_is_room_again(
    at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.auth.usage.FLUSH_S", 600)  # so that only the test writes

    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, tokens = make("picture"), [f"token{number}" for number in range(500)]
        usage, (first, *_) = ingress.usage, tokens
        used = (await read_memory(ingress.redis)).used_bytes
        await ingress.redis.config_set("maxmemory", used + 80_000)  # room for some of the counts, not for all
        for token in tokens:
            usage.request(token)
        await usage._write()
        assert await ingress.redis.hget(ingress.redis.key("usage", first, today()), "requests") is None
        await ingress.redis.config_set("maxmemory", 0)
        await usage._write()
        keys = [ingress.redis.key("usage", token, today()) for token in tokens]
        assert {await ingress.redis.hget(key, "requests") for key in keys} == {"1"}

    at(scenario)


def test_a_broker_that_was_nearly_full_and_is_away_refuses_nothing(at: Callable[..., None], tmp_path: Path) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        watch = MemoryWatch(ingress.redis)
        await make_full(ingress)
        assert await watch.is_nearly_full()
        async with connect(BrokerSettings(url="unix:///nothing/here.sock", timeout_s=1), tmp_path) as away:
            watch._redis = away
            assert not await watch.is_nearly_full()

    at(scenario)

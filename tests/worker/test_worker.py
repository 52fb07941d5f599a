"""What a worker does with queued tasks when all goes well, and when it does not. The broker and the store are real."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError

from deployments.errors import NoFaceError, NotBegunError
from deployments.types import Photo
from serve_app.auth.image_quota import ImageQuota
from serve_app.auth.owner_use import OwnerUse
from serve_app.auth.usage import UsageBook
from serve_app.backends.embedded_valkey import ValkeyKeeper
from serve_app.backends.object_store import Results, StoreSettings, photo_key, photo_keys
from serve_app.backends.redis import BrokerSettings, connect
from serve_app.catalog.catalog import Catalog
from serve_app.errors import OverloadedError, StoreError
from serve_app.generation.execution import TaskExecution
from serve_app.photos.decode import pack_photo
from serve_app.schemas.responses import Status
from serve_app.tasks.keys import TaskKeys
from serve_app.tasks.models import Outcome, Task, TaskRecord, task_files
from serve_app.tasks.start_deadlines import StartDeadlines
from serve_app.tasks.store import TaskStore
from serve_app.tasks.stream import GROUP, TaskQueue
from serve_app.worker.consumer import ISOLATE_AFTER_DEATHS, MAX_DEATHS, TaskWorker
from serve_app.worker.late_starts import LateStarts
from tests.support.brokers import PROGRAMS, servers_of
from tests.support.ingresses import do_nothing
from tests.support.pipelines import PIXELS, Pipeline
from tests.support.polling import eventually
from tests.support.stores import exists
from tests.support.tasks import task

# It ends when a test says so: longer than pauses of a busy machine, and yet so short that a worker whose call was lost
# sweeps again in time.
LEASE_S = 5.0


class Shop:
    """A broker, a store, and workers on them."""

    def __init__(self, broker: Path, data_dir: Path) -> None:
        self.redis = connect(BrokerSettings(prefix=f"test{time.time_ns()}"), broker)
        self.keys = TaskKeys(self.redis.prefix)
        self.results = Results.open(StoreSettings(), data_dir=data_dir, signing_key=b"key", ttl_s=60)
        self.store = self.store_of("client")
        self.workers: list[TaskWorker] = []
        self.loops: list[asyncio.Task[None]] = []

    def store_of(self, holder: str, lease_s: float = LEASE_S) -> TaskStore:
        return TaskStore(self.redis, holder, ttl_s=60, lease_s=lease_s)

    def worker(self, *outcomes: Any, concurrency: int = 4, lease_s: float = LEASE_S) -> tuple[TaskWorker, Pipeline]:
        name = f"worker{len(self.workers)}"
        pipeline = Pipeline(self.results, *outcomes)
        store, queue = self.store_of(name, lease_s), TaskQueue(self.redis, name, lease_s=lease_s)
        catalog, use, usage = Catalog.read(["embedded"]), OwnerUse(self.redis), UsageBook(self.redis, 90)
        quota = ImageQuota(self.redis)
        execution = TaskExecution(catalog, pipeline, store, self.results, use, usage, queue, quota)  # type: ignore[arg-type]
        worker = TaskWorker(store, queue, execution, self.results, concurrency)
        self.workers.append(worker)
        self.loops.append(asyncio.create_task(worker.run()))
        return worker, pipeline

    async def submit(self, task_id: str, **fields: Any) -> Task:
        submitted = task(task_id, celery=True, **fields)
        await self.store.create(submitted, "PENDING")
        await self.results.put(photo_key(task_id), pack_photo(Photo(PIXELS)))
        await self.store.enqueue(task_id)
        return submitted

    async def record(self, task_id: str) -> TaskRecord:
        record = await self.store.get(task_id)
        assert record is not None
        return record

    async def until(self, task_id: str, *statuses: Status) -> TaskRecord:
        async def reached() -> TaskRecord | None:
            record = await self.record(task_id)
            return record if record.status in statuses else None

        return await eventually(reached)

    async def close(self) -> None:
        for worker in self.workers:
            await worker.close(grace_s=0)
        await asyncio.gather(*self.loops)
        await self.redis.aclose()


@pytest.fixture(scope="module", params=PROGRAMS)
def broker_program(request: pytest.FixtureRequest) -> Iterator[str]:
    with servers_of(request.param) as program:
        yield program


Scenario = Callable[[Shop], Awaitable[None]]


async def run_in_shop(shop: Shop, scenario: Scenario) -> None:
    try:
        async with asyncio.timeout(60):
            await scenario(shop)
    finally:
        await shop.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that look after their leases, and for those of dead ones, often."""
    monkeypatch.setattr("serve_app.generation.execution.PAUSES_S", (0.02, 0.05))
    monkeypatch.setattr("serve_app.tasks.leases.POLL_S", 0.05)
    monkeypatch.setattr("serve_app.tasks.leases.RENEW_S", 0.25)
    monkeypatch.setattr("serve_app.tasks.stream.SWEEPS", 10 * LEASE_S)
    monkeypatch.setattr("serve_app.worker.consumer.TAKE_WAIT_S", 0.1)


@pytest.fixture
def at(valkey: Path, tmp_path: Path, quick: None) -> Callable[[Scenario], None]:
    async def within(scenario: Scenario) -> None:
        await run_in_shop(Shop(valkey, tmp_path), scenario)

    return lambda scenario: asyncio.run(within(scenario))


def test_a_task_is_made_of_its_stored_photo_which_is_then_deleted(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a")
        _worker, pipeline = shop.worker("picture")
        record = await shop.until("a", "SUCCESS")
        assert np.array_equal(pipeline.photos[0].pixels, PIXELS)
        assert [avatar.key for avatar in record.outcome.avatars] == ["a/0.png"]
        assert record.images_done == 1

        async def is_clean() -> bool:
            return not await exists(shop.results, photo_key("a")) and not await shop.redis.xlen(shop.keys.queue)

        await eventually(is_clean)

    at(scenario)


def test_a_users_mistake_is_recorded_and_not_tried_again(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a")
        _worker, pipeline = shop.worker(NoFaceError("no face found", faces_found=0), "picture")
        record = await shop.until("a", "FAILED", "SUCCESS")
        assert record.outcome.failure is not None
        assert (record.outcome.failure.status, record.outcome.failure.error) == (422, "Face Consistent Error")
        assert record.outcome.failure.error_data["faces_found"] == 0
        assert len(pipeline.photos) == 1

    at(scenario)


def test_a_bug_fails_the_task_without_telling_how(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a")
        shop.worker(ValueError("secret detail"))
        record = await shop.until("a", "FAILED")
        assert record.outcome.failure is not None
        assert record.outcome.failure.error == "Internal Error"
        assert "secret" not in record.outcome.model_dump_json()

    at(scenario)


@pytest.mark.parametrize(
    "lacks", [[OverloadedError("no replica")] * (MAX_DEATHS + 1), [ActorDiedError()] * (MAX_DEATHS - 1)]
)
def test_what_is_not_the_tasks_fault_is_tried_again(at: Callable[..., None], lacks: list[Exception]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a")
        _worker, pipeline = shop.worker(*lacks, "picture")
        record = await shop.until("a", "SUCCESS", "FAILED")
        assert (record.status, record.attempts, len(pipeline.photos)) == ("SUCCESS", 1, len(lacks) + 1)

    at(scenario)


def test_a_task_is_made_of_all_its_stored_photos_which_are_then_deleted(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        urls = tuple(f"https://example.org/{name}.jpg" for name in "abc")
        keys = photo_keys("a", 3)
        for index, key in enumerate(keys[1:], 1):
            photo = Photo(PIXELS + index, warnings=("clipped",) if index == 2 else ())
            await shop.results.put(key, pack_photo(photo))
        await shop.submit("a", file_url=None, file_urls=urls)
        _worker, pipeline = shop.worker("picture")
        record = await shop.until("a", "SUCCESS")
        assert [int(photo.pixels[0, 0, 0]) for photo in pipeline.photos] == [0, 1, 2]
        assert record.outcome.warnings == ("clipped:2",)

        async def is_clean() -> bool:
            return not any([await exists(shop.results, key) for key in keys])

        await eventually(is_clean)

    at(scenario)


def test_a_task_that_did_not_begin_in_time_takes_no_images_of_its_day(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        quota = ImageQuota(shop.redis)
        for name, token in (("a", "ann"), ("b", "unlimited")):
            late = task(name, celery=True, batch=2, start_deadline_s=5).model_copy(update={"token": token})
            async with quota.take(token, 2, 2 if token == "ann" else 0, late.submitted_at):
                await shop.store.create(late, "PENDING")
            await shop.results.put(photo_key(name), pack_photo(Photo(PIXELS)))
            await shop.store.enqueue(name)
        shop.worker(NotBegunError.within(5))
        for name in "ab":
            record = await shop.until(name, "FAILED")
            assert record.outcome.failure is not None
            assert (record.outcome.failure.status, record.outcome.failure.error) == (504, "Timeout")
        async with quota.take("ann", 2, 2):  # as many as it may have
            pass
        assert len([key async for key in shop.redis.scan_iter(shop.redis.key("taken", "*"))]) == 1

    at(scenario)


@pytest.mark.parametrize("was_taken", [False, True])
def test_a_task_that_another_worker_had_has_begun(at: Callable[..., None], was_taken: bool) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a", start_deadline_s=60)
        if was_taken:
            other = shop.store_of("other")
            await other.claim("a")
            message = (await shop.record("a")).message_id
            assert await other.hand_back("a")
            await shop.redis.xdel(shop.keys.queue, message)
        _worker, pipeline = shop.worker("picture")
        await shop.until("a", "SUCCESS")
        assert [job.begun for job in pipeline.jobs] == [was_taken]

    at(scenario)


def test_a_task_that_was_drawn_and_then_found_no_store_has_begun(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a", start_deadline_s=60)
        _worker, pipeline = shop.worker(OverloadedError("busy"), StoreError("away"), ActorDiedError(), "picture")
        await shop.until("a", "SUCCESS")
        assert [job.begun for job in pipeline.jobs] == [False, False, True, True]

    at(scenario)


def test_a_task_is_ended_at_its_start_deadline_though_no_worker_has_room_for_it(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        starts = StartDeadlines(shop.redis)
        await shop.submit("first")
        worker, _pipeline = shop.worker(None, concurrency=1)
        await shop.until("first", "STARTED")
        for name, began_ago_s in (("late", 30), ("early", 0)):
            queued = task(name, celery=True, start_deadline_s=10)
            queued = queued.model_copy(update={"submitted_at": time.time() - began_ago_s})
            await shop.store.create(queued, "PENDING")
            await starts.note(queued)
            await shop.store.enqueue(name)
        await LateStarts(shop.redis, shop.store, worker).run_once()
        record = await shop.record("late")
        assert record.outcome.failure is not None
        assert (record.outcome.failure.status, record.outcome.failure.error) == (504, "Timeout")
        assert (await shop.record("early")).status == "PENDING"
        assert await starts.passed() == []
        assert await TaskQueue(shop.redis, "any").length() == 2

    at(scenario)


def test_trying_again_ends_at_the_deadline(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        late = task("a").model_copy(update={"submitted_at": time.time() - 59.5})
        await shop.store.create(late, "PENDING")
        await shop.results.put(photo_key("a"), pack_photo(Photo(PIXELS)))
        await shop.store.enqueue("a")
        shop.worker(OverloadedError("no replica"))
        record = await shop.until("a", "FAILED")
        assert record.outcome.failure is not None
        assert record.outcome.failure.error == "Timeout"

    at(scenario)


def test_no_more_tasks_than_allowed_run_at_once(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        for name in "abcdef":
            await shop.submit(name)
        _worker, pipeline = shop.worker(None, concurrency=2)
        await shop.until("b", "STARTED")
        await asyncio.sleep(1)
        assert [(await shop.record(name)).status for name in "abc"] == ["STARTED", "STARTED", "PENDING"]
        pipeline.gate.set()
        for name in "abcdef":
            assert (await shop.until(name, "SUCCESS")).attempts == 1

    at(scenario)


def test_a_running_task_that_is_cancelled_stops_and_leaves_no_files(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a")
        _worker, pipeline = shop.worker(None)
        await eventually(lambda: exists(shop.results, "a/0.png"))
        await shop.store.cancel("a")

        async def is_clean() -> bool:
            return not await exists(shop.results, "a/0.png") and not await exists(shop.results, photo_key("a"))

        await eventually(is_clean)
        assert pipeline.cancelled == 1
        assert (await shop.record("a")).status == "CANCELLED"

    at(scenario)


def test_the_task_of_a_worker_that_died_is_done_by_another(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a")
        dead, _pipeline = shop.worker(None)
        await shop.until("a", "STARTED")
        await die(shop, dead)
        shop.worker("picture")
        record = await shop.until("a", "SUCCESS")
        assert record.attempts == 2

    at(scenario)


async def die(shop: Shop, worker: TaskWorker) -> None:
    """As after kill -9: nothing is handed back, nothing renewed. Its leases have run out."""
    await stall(worker)
    for running in worker._running:
        running.get_coro().close()  # type: ignore[union-attr]
    name = f"worker{shop.workers.index(worker)}"
    for pending in await shop.redis.xpending_range(shop.keys.queue, GROUP, "-", "+", 100, name):
        await run_out(shop, name, pending["message_id"])


async def stall(worker: TaskWorker) -> None:
    """It takes, hears and renews nothing any more; all that it took is at its longest wait."""
    worker._closing = True
    await worker._stopped.wait()
    pipeline: Any = worker._execution._pipeline
    await eventually(lambda: asyncio.sleep(0, pipeline.waiting == len(worker._running)))
    await worker._execution.close()
    await asyncio.gather(worker._execution._leases._keeper or do_nothing(), return_exceptions=True)


async def run_out(shop: Shop, consumer: str, message_id: str) -> None:
    """As when a message and its task were not touched for the length of a lease."""
    ((_, fields),) = await shop.redis.xrange(shop.keys.queue, message_id, message_id)
    await shop.redis.delete(shop.keys.lease(fields["task_id"]))
    await expire(shop, consumer, message_id)


async def expire(shop: Shop, consumer: str, message_id: str) -> None:
    await shop.redis.xclaim(shop.keys.queue, GROUP, consumer, 0, [message_id], idle=120_000, justid=True)


def test_the_task_of_a_dead_worker_waits_for_no_free_place(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a")
        dead, _pipeline = shop.worker(None, concurrency=1)
        await shop.until("a", "STARTED")
        await shop.submit("b")
        _living, pipeline = shop.worker(None, concurrency=1)
        await shop.until("b", "STARTED")
        await shop.submit("c")
        await die(shop, dead)
        await eventually(lambda: _has_attempts(shop, 2))
        assert [(await shop.record(name)).status for name in "bc"] == ["STARTED", "PENDING"]
        pipeline.gate.set()
        for name in "abc":
            await shop.until(name, "SUCCESS")

    at(scenario)


def test_a_message_whose_task_is_held_comes_again_when_the_lease_runs_out(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a")
        dead = TaskQueue(shop.redis, "dead")
        await dead.take(1, 0.01)
        (message,) = await dead.take(1, 1)
        await shop.store_of("dead", lease_s=15).claim("a")
        await expire(shop, "dead", message.message_id)
        shop.worker(None, lease_s=60)

        async def comes_when_the_lease_is_over() -> bool:
            (pending,) = await shop.redis.xpending_range(shop.keys.queue, GROUP, "-", "+", 1)
            return bool(45_000 <= pending["time_since_delivered"] < 60_000)

        await eventually(comes_when_the_lease_is_over)

    at(scenario)


def test_a_task_that_was_taken_over_outlives_its_second_worker_too(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a")
        stalled, _pipeline = shop.worker(None)
        await shop.until("a", "STARTED")
        await stall(stalled)
        await run_out(shop, "worker0", (await shop.record("a")).message_id or "")
        second, _pipeline = shop.worker(None)

        async def taken_over() -> bool:
            return (await shop.record("a")).attempts == 2

        await eventually(taken_over)
        await stalled._execution._leases._renew()  # it hears that the task is another's, and lets go of it
        await eventually(lambda: asyncio.sleep(0, not stalled._running))
        await second._execution._leases._renew()  # its message is its own again
        await die(shop, second)
        shop.worker("picture")
        assert (await shop.until("a", "SUCCESS", "FAILED")).status == "SUCCESS"

    at(scenario)


def test_a_worker_never_takes_over_what_it_works_on_itself(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a")
        _worker, pipeline = shop.worker(None)
        await shop.until("a", "STARTED")
        lease = shop.keys.lease("a")
        message_id = (await shop.record("a")).message_id or ""
        await shop.redis.delete(lease)
        await expire(shop, "somebody", message_id)

        async def came_again() -> bool:
            (pending,) = await shop.redis.xpending_range(shop.keys.queue, GROUP, "-", "+", 1)
            return bool(pending["consumer"] != "somebody")

        await eventually(came_again)
        pipeline.gate.set()
        record = await shop.until("a", "SUCCESS")
        assert (record.attempts, len(pipeline.photos)) == (1, 1)

    at(scenario)


def test_the_photo_goes_with_a_task_that_is_over(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        submitted = await shop.submit("a")
        await shop.store.finish(await claimed(shop, submitted), "SUCCESS", Outcome())  # and its worker died at that
        shop.worker("picture")

        async def is_gone() -> bool:
            return not await exists(shop.results, photo_key("a"))

        await eventually(is_gone)

    at(scenario)


@pytest.mark.parametrize("ends", ["FAILED", "CANCELLED"])
def test_the_images_of_a_task_that_is_over_go_if_its_worker_died_before_it_deleted_them(
    at: Callable[..., None], ends: str
) -> None:
    async def scenario(shop: Shop) -> None:
        submitted = await shop.submit("a")
        dying, _pipeline = shop.worker(None)
        files = task_files(submitted)
        await eventually(lambda: exists(shop.results, files[1]))
        await die(shop, dying)
        if ends == "CANCELLED":
            await shop.store.cancel("a")
        else:
            await shop.redis.delete(shop.keys.lease("a"))
            await shop.store.claim("a")
            await shop.store.finish(submitted, "FAILED", Outcome())
        shop.worker("picture")

        async def is_clean() -> bool:
            left = [key for key in files if await exists(shop.results, key)]
            return not left and not await shop.redis.xlen(shop.keys.queue)

        await eventually(is_clean)
        assert (await shop.record("a")).status == ends

    at(scenario)


async def claimed(shop: Shop, submitted: Task) -> Task:
    await shop.store.claim(submitted.task_id)
    return submitted


def test_a_task_that_ends_its_workers_is_given_up_and_may_be_queued_again(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a")
        for death in range(1, MAX_DEATHS + 1):
            worker, _pipeline = shop.worker(None)
            await eventually(lambda n=death: _has_attempts(shop, n))  # type: ignore[misc]
            await die(shop, worker)
        living, pipeline = shop.worker("picture")
        record = await shop.until("a", "FAILED", "SUCCESS")
        assert (record.status, record.dead, pipeline.photos) == ("FAILED", True, [])
        assert record.outcome.failure is not None
        assert record.outcome.failure.status == 500
        assert f"{MAX_DEATHS} times" in record.outcome.failure.error_data["message"]
        assert await shop.store.dead() == ["a"]

        assert await shop.store.requeue(record)
        record = await shop.until("a", "SUCCESS")
        assert (record.attempts, record.dead, await shop.store.dead()) == (1, False, [])
        assert not living._closing

    at(scenario)


async def _has_attempts(shop: Shop, attempts: int) -> bool:
    return (await shop.record("a")).attempts == attempts


def test_tasks_that_workers_died_under_run_one_by_one_so_that_the_innocent_live(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        for name in ("guilty", "innocent"):
            await shop.submit(name)
        for number in range(ISOLATE_AFTER_DEATHS):
            worker, _ = shop.worker(None)
            for name in ("guilty", "innocent"):
                await eventually(lambda name=name, number=number: _attempted(shop, name, number + 1))
            await die(shop, worker)
        worker, pipeline = shop.worker(None)
        await eventually(lambda: asyncio.sleep(0, pipeline.jobs))
        await shop.submit("fresh")  # waits for none of them
        await shop.until("fresh", "STARTED")
        first, attempts = (
            pipeline.jobs[0].task_id,
            [(await shop.record(name)).attempts for name in ("guilty", "innocent")],
        )
        assert sorted(attempts) == [ISOLATE_AFTER_DEATHS, ISOLATE_AFTER_DEATHS + 1]
        pipeline.gate.set()
        second = {"guilty": "innocent", "innocent": "guilty"}[first]
        assert (await shop.until(second, "SUCCESS")).attempts == ISOLATE_AFTER_DEATHS + 1

    at(scenario)


async def _attempted(shop: Shop, task_id: str, attempts: int) -> bool:
    return (await shop.record(task_id)).attempts == attempts


def test_a_task_under_which_the_stages_go_on_dying_is_given_up(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a")
        _worker, pipeline = shop.worker(ActorDiedError())
        record = await shop.until("a", "FAILED")
        assert (len(pipeline.photos), record.dead) == (MAX_DEATHS, True)
        assert await exists(shop.results, photo_key("a"))

    at(scenario)


def test_a_second_run_keeps_the_images_of_the_first(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a", batch=2)
        dead, _pipeline = shop.worker(None)

        async def has_an_image() -> bool:
            return (await shop.record("a")).images_done == 1

        await eventually(has_an_image)
        await die(shop, dead)
        _living, pipeline = shop.worker("picture")
        record = await shop.until("a", "SUCCESS")
        assert record.attempts == 2
        assert [sorted(job.done) for job in pipeline.jobs] == [[0]]
        assert record.avatars == {}  # they are in its outcome

    at(scenario)


def test_what_a_failed_task_had_stored_is_deleted(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a")
        await shop.results.put("a/0.png", b"picture")
        shop.worker(ValueError("a bug"))
        await shop.until("a", "FAILED")

        async def is_clean() -> bool:
            return not await exists(shop.results, "a/0.png") and not await exists(shop.results, photo_key("a"))

        await eventually(is_clean)

    at(scenario)


def test_a_worker_that_ends_hands_back_what_it_cannot_finish(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a")
        worker, _pipeline = shop.worker(None)
        await shop.until("a", "STARTED")
        await worker.close(grace_s=0.1)
        record = await shop.record("a")
        assert (record.status, record.is_leased, record.attempts) == ("PENDING", False, 0)
        shop.worker("picture", lease_s=3600)  # it takes over from nobody
        await shop.until("a", "SUCCESS")

    at(scenario)


def test_a_worker_that_ends_finishes_what_it_can(at: Callable[..., None]) -> None:
    async def scenario(shop: Shop) -> None:
        await shop.submit("a")
        await shop.submit("b")
        worker, pipeline = shop.worker(None, concurrency=1)
        await shop.until("a", "STARTED")
        closing = asyncio.create_task(worker.close(grace_s=20))
        await asyncio.sleep(0.1)
        pipeline.gate.set()
        await closing
        assert [(await shop.record(name)).status for name in "ab"] == ["SUCCESS", "PENDING"]

    at(scenario)


def test_a_broker_that_dies_under_a_running_task_costs_nothing(
    tmp_path: Path, broker_program: str, quick: None
) -> None:
    keeper = ValkeyKeeper(BrokerSettings(), tmp_path)

    async def scenario(shop: Shop) -> None:
        await shop.submit("a")
        await shop.submit("b")
        _worker, pipeline = shop.worker(None, concurrency=1)
        await shop.until("a", "STARTED")
        os.kill(keeper._server.pid or 0, signal.SIGKILL)
        pipeline.gate.set()
        assert (await shop.until("a", "SUCCESS")).attempts == 1
        assert (await shop.until("b", "SUCCESS")).attempts == 1

    async def within() -> None:
        await keeper.start()
        try:
            await run_in_shop(Shop(tmp_path, tmp_path), scenario)
        finally:
            await keeper.close()

    asyncio.run(within())

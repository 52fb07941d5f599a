"""What the reaper puts right, on a real Valkey and a real store."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from serve_app.backends.object_store import Results, StoreSettings, photo_key, result_key
from serve_app.errors import GivenUpError
from serve_app.generation.execution import failure_outcome
from serve_app.tasks.models import Claim
from serve_app.tasks.stream import GROUP
from serve_app.worker.recovery import Recovery
from tests.support.brokers import PROGRAMS, servers_of
from tests.support.stores import exists
from tests.support.tasks import Office, queued, task

DEAD_TTL_S = 100


class Ward(Office):
    """An office with a reaper."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir, lease_s=60)
        self.results = Results.open(StoreSettings(), data_dir=data_dir, signing_key=b"key", ttl_s=60)
        self.reaper = self.new_reaper()

    def new_reaper(self) -> Recovery:
        return Recovery(self.redis, self.store("r"), self.queue("r"), self.results, DEAD_TTL_S)

    async def run_once(self) -> None:
        await self.redis.delete(self.redis.key("reaper"))
        await self.reaper.run_once()

    async def taken(self) -> list[str]:
        return [message.task_id for message in await self.queue("w").take(7, 0.01)]


Scenario = Callable[[Ward], Awaitable[None]]


@pytest.fixture(scope="module", params=PROGRAMS)
def broker_program(request: pytest.FixtureRequest) -> Iterator[str]:
    with servers_of(request.param) as program:
        yield program


@pytest.fixture
def at(valkey: Path) -> Callable[[Scenario], None]:
    def run(scenario: Scenario) -> None:
        async def within() -> None:
            ward = Ward(valkey)
            async with ward.redis, asyncio.timeout(30):
                await ward.queue("w").take(1, 0.01)
                await scenario(ward)

        asyncio.run(within())

    return run


@pytest.mark.parametrize("priority", ["normal", "low"])
def test_a_task_whose_message_is_gone_is_queued_again(at: Callable[[Scenario], None], priority: str) -> None:
    async def scenario(ward: Ward) -> None:
        await queued(ward.store("a"), "a", priority=priority)
        await ward.redis.delete(ward.keys.queue, ward.keys.low_queue)  # with the group of its workers
        await ward.run_once()
        assert await ward.taken() == []  # makes the group anew
        assert await ward.taken() == ["a"]

    at(scenario)


def test_a_running_task_whose_worker_and_message_are_gone_runs_again(at: Callable[[Scenario], None]) -> None:
    async def scenario(ward: Ward) -> None:
        await queued(ward.store("a"), "a")
        await ward.taken()
        assert await ward.store("dead").claim("a") is Claim.ACQUIRED
        await ward.redis.xtrim(ward.keys.queue, maxlen=0)
        await ward.run_once()
        assert await ward.taken() == []  # its lease holds
        await ward.redis.delete(ward.keys.lease("a"))
        await ward.run_once()
        assert await ward.taken() == ["a"]
        record = await ward.store("x").get("a")
        assert record is not None
        assert (record.status, record.attempts) == ("PENDING", 1)

    at(scenario)


def test_a_message_that_was_dropped_with_its_consumer_comes_again(at: Callable[[Scenario], None]) -> None:
    async def scenario(ward: Ward) -> None:
        await queued(ward.store("a"), "a")
        assert await ward.taken() == ["a"]
        await ward.redis.xgroup_delconsumer(ward.keys.queue, GROUP, "w")
        await ward.run_once()
        assert await ward.taken() == ["a"]
        assert await ward.queue("x").length() == 1

    at(scenario)


def test_what_waits_runs_or_is_over_is_left_alone(at: Callable[[Scenario], None]) -> None:
    async def scenario(ward: Ward) -> None:
        store = ward.store("a")
        for name in ("over", "handed-out", "held", "waiting"):
            await queued(store, name, owner=name)
        assert await ward.queue("w").take(3, 0.01)
        await store.claim("held")
        await store.cancel("over")
        before = {name: await store.get(name) for name in ("over", "handed-out", "held", "waiting")}
        await ward.run_once()
        assert {name: await store.get(name) for name in before} == before
        assert await ward.taken() == ["waiting"]

    at(scenario)


def test_tasks_that_are_forgotten_leave_the_list_of_the_open_ones(at: Callable[[Scenario], None]) -> None:
    async def scenario(ward: Ward) -> None:
        for name in "abc":
            await queued(ward.store("a"), name)
        await ward.store("a").cancel("a")
        await ward.redis.delete(ward.keys.record("b"))  # expired
        await ward.run_once()
        assert await ward.redis.zrange(ward.keys.open, 0, -1) == ["c"]

    at(scenario)


def test_one_reaper_at_a_time_does_a_round(at: Callable[[Scenario], None]) -> None:
    async def scenario(ward: Ward) -> None:
        await ward.new_reaper().run_once()
        await queued(ward.store("a"), "a")
        await ward.redis.xtrim(ward.keys.queue, maxlen=0)
        await ward.reaper.run_once()
        assert await ward.taken() == []
        assert await ward.redis.pttl(ward.redis.key("reaper")) > 0  # a round that died keeps nobody away

    at(scenario)


def test_a_dead_letter_goes_with_its_files_when_its_time_is_over(at: Callable[[Scenario], None]) -> None:
    async def scenario(ward: Ward) -> None:
        store = ward.store("a")
        files = [photo_key("old"), result_key("old", 0, "png")]
        for file in files:
            await ward.results.put(file, b"data")
        for name in ("old", "young"):
            await store.create(task(name), "STARTED")
            await store.finish(task(name), "FAILED", failure_outcome(GivenUpError("It kills.")), dead=True)
        await ward.redis.zadd(ward.keys.dead, {"old": time.time() - DEAD_TTL_S - 1})
        await ward.run_once()
        assert await store.dead() == ["young"]
        assert await store.get("old") is None
        assert [await exists(ward.results, file) for file in files] == [False, False]

    at(scenario)

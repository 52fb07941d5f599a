"""What the sweeper deletes, and what it leaves alone, on a real Valkey and real stores."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from serve_app.backends.object_store import (
    FOLDER,
    Results,
    StoreSettings,
    photo_key,
    result_key,
    task_of,
    thumbnail_key,
)
from serve_app.errors import GivenUpError
from serve_app.generation.execution import failure_outcome
from serve_app.generation.validation import new_task_id
from serve_app.tasks.models import Outcome
from serve_app.worker.retention import YOUNG_S, Retention
from tests.support.tasks import AVATAR, Office, task

TTL_S = 3600
HOUR_S = 3600


class Household(Office):
    """An office with a store and a sweeper."""

    def __init__(self, data_dir: Path, folder: Path) -> None:
        super().__init__(data_dir, lease_s=60)
        self.folder = folder / FOLDER
        self.results = Results.open(StoreSettings(), data_dir=folder, signing_key=b"key", ttl_s=TTL_S)
        self.tasks = self.store("w")
        self.sweeper = Retention(self.redis, self.tasks, self.results, TTL_S)

    async def put(self, key: str, age_s: float) -> None:
        await self.results.put(key, b"bytes")
        written = time.time() - age_s
        os.utime(self.folder / key, (written, written))

    async def sweep(self) -> None:
        await self.redis.delete(*(self.redis.key("sweeper", what) for what in ("photos", "results")))
        await self.sweeper.run_once()

    def has(self, key: str) -> bool:
        return (self.folder / key).exists()


Scenario = Callable[[Household], Awaitable[None]]


@pytest.fixture
def at(valkey: Path, tmp_path: Path) -> Callable[[Scenario], None]:
    def run(scenario: Scenario) -> None:
        async def within() -> None:
            household = Household(valkey, tmp_path)
            async with household.redis, asyncio.timeout(30):
                await scenario(household)

        asyncio.run(within())

    return run


async def ended(household: Household, *, dead: bool = False) -> str:
    """A task that is over; its id."""
    own = task(new_task_id())
    await household.tasks.create(own, "STARTED")
    outcome = failure_outcome(GivenUpError("enough")) if dead else Outcome(avatars=(AVATAR,))
    assert await household.tasks.finish(own, "FAILED" if dead else "SUCCESS", outcome, dead=dead)
    return own.task_id


def test_the_photo_of_a_task_that_is_over_is_an_orphan(at: Callable[[Scenario], None]) -> None:
    async def scenario(household: Household) -> None:
        over, unknown = await ended(household), new_task_id()
        orphans = [photo_key(over), photo_key(unknown), photo_key(over, 3), photo_key(unknown, 1)]
        for key in orphans:
            await household.put(key, YOUNG_S + 1)
        await household.sweep()
        assert [household.has(key) for key in orphans] == [False] * 4

    at(scenario)


def test_photos_that_somebody_may_need_stay(at: Callable[[Scenario], None]) -> None:
    async def scenario(household: Household) -> None:
        waiting = task(new_task_id())
        await household.tasks.create(waiting, "PENDING")
        needed = [photo_key(waiting.task_id), photo_key(await ended(household, dead=True))]
        for key in needed:
            await household.put(key, HOUR_S)
        just_stored = photo_key(new_task_id())
        await household.put(just_stored, 1)
        await household.sweep()
        assert [household.has(key) for key in (*needed, just_stored)] == [True, True, True]

    at(scenario)


def test_the_photo_of_a_task_whose_time_is_over_goes(at: Callable[[Scenario], None]) -> None:
    async def scenario(household: Household) -> None:
        late = task(new_task_id()).model_copy(update={"submitted_at": time.time() - HOUR_S})
        await household.tasks.create(late, "PENDING")
        await household.put(photo_key(late.task_id), HOUR_S)
        await household.sweep()
        assert not household.has(photo_key(late.task_id))

    at(scenario)


def test_results_go_when_their_record_has_gone_and_not_before(at: Callable[[Scenario], None]) -> None:
    async def scenario(household: Household) -> None:
        def files(task_id: str) -> Sequence[str]:
            return result_key(task_id, 0, "png"), thumbnail_key(task_id, 0)

        forgotten, recent, dead = new_task_id(), await ended(household), await ended(household, dead=True)
        for task_id in (forgotten, recent, dead):
            for key in files(task_id):
                await household.put(key, TTL_S + 60)  # of a long task the first image may be older than the record
        young = new_task_id()
        await household.put(result_key(young, 0, "png"), TTL_S - 60)
        await household.sweep()
        assert not any(household.has(key) for key in files(forgotten))
        assert not (household.folder / forgotten).exists()  # nor an empty folder
        assert all(household.has(key) for key in (*files(recent), *files(dead), result_key(young, 0, "png")))

    at(scenario)


def test_files_that_are_not_ours_stay(at: Callable[[Scenario], None]) -> None:
    async def scenario(household: Household) -> None:
        for name in ("notes.txt", "photos/holiday.webp", "backup/0.png"):
            await household.put(name, 100 * HOUR_S)
        await household.sweep()
        assert all(household.has(name) for name in ("notes.txt", "photos/holiday.webp", "backup/0.png"))

    at(scenario)


def test_what_a_writer_that_died_left_goes(at: Callable[[Scenario], None]) -> None:
    async def scenario(household: Household) -> None:
        await household.put(photo_key(new_task_id()), 0)
        old, new = (household.folder / f"photos/{new_task_id()}.webp#{number}" for number in (1, 2))
        for part in (old, new):
            part.write_bytes(b"half a pho")
        os.utime(old, (0, 0))
        await household.sweep()
        assert not old.exists()
        assert new.exists()  # it may be being written

    at(scenario)


def test_more_files_than_are_listed_at_once_are_all_seen(
    at: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.backends.object_store.LISTED_AT_ONCE", 10)

    async def scenario(household: Household) -> None:
        keys = [photo_key(new_task_id()) for _ in range(35)]
        for key in keys:
            await household.put(key, HOUR_S)
        await household.sweep()
        assert not any(household.has(key) for key in keys)

    at(scenario)


def test_one_sweeper_at_a_time_does_a_round(at: Callable[[Scenario], None]) -> None:
    async def scenario(household: Household) -> None:
        await household.sweeper.run_once()
        orphan = photo_key(new_task_id())
        await household.put(orphan, HOUR_S)
        await household.sweeper.run_once()
        assert household.has(orphan)
        await household.sweep()
        assert not household.has(orphan)

    at(scenario)


def test_a_key_tells_its_task() -> None:
    task_id = new_task_id()
    photos = photo_key(task_id), photo_key(task_id, 2)
    assert {task_of(key) for key in (*photos, result_key(task_id, 3, "webp"), thumbnail_key(task_id, 0))} == {task_id}

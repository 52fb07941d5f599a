"""Retention: deletes orphaned photos and expired results. One worker at a time runs it.

A photo whose task is finished is orphaned: the process that should have deleted it died. So is one of a request that
was never added to its batch, or was cancelled there; those of requests that wait are needed. A result expires with its
record.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

from serve_app.backends.object_store import PHOTOS, Results, task_of
from serve_app.backends.redis import Redis
from serve_app.batches.waiting import WaitingRequests
from serve_app.generation.envelope import OVERDUE_S
from serve_app.tasks.models import TaskRecord
from serve_app.tasks.store import TaskStore
from serve_app.worker.periodic import acquire_lock

RESULTS_EVERY_S = 300  # lists every file of the store
YOUNG_S = 20  # a photo is stored just before its task is queued, and deleted just after its end
AT_ONCE = 100

log = logging.getLogger(__name__)


class Retention:
    """Runs in every worker; the one that gets a lock does that work."""

    name = "retention"
    every_s = 20.0

    def __init__(self, redis: Redis, tasks: TaskStore, results: Results, result_ttl_s: int) -> None:
        self._redis = redis
        self._tasks = tasks
        self._waiting = WaitingRequests(redis)
        self._results = results
        self._result_ttl_s = result_ttl_s

    async def run_once(self) -> None:
        """Does nothing if another worker has run it recently. Raises: BrokerError; StoreError."""
        if await acquire_lock(self._redis, "sweeper:photos", self.every_s):
            await self._delete(self._orphans())
        if await acquire_lock(self._redis, "sweeper:results", RESULTS_EVERY_S):
            await self._delete(self._expired())
            await asyncio.to_thread(self._results.delete_parts)

    async def _orphans(self) -> AsyncIterator[str]:
        async for keys in _in_groups(self._results.older(YOUNG_S, PHOTOS)):
            now = time.time()
            # First: what is reserved no more is recorded by then, or needed by nobody.
            reserved = await self._waiting.reserved([task_of(key) for key in keys])
            for key in (key for key, is_reserved in zip(keys, reserved, strict=True) if not is_reserved):
                record = await self._tasks.get(task_of(key))
                if record is None or not _needs_photo(record, now):
                    log.warning("task %s: its orphaned photo is deleted", task_of(key))
                    yield key

    async def _expired(self) -> AsyncIterator[str]:
        now = time.time()
        async for key in self._results.older(self._result_ttl_s):
            record = await self._tasks.get(task_of(key))
            if record is None or self._is_expired(record, now):
                yield key

    def _is_expired(self, record: TaskRecord, now: float) -> bool:
        return not record.dead and record.finished_at is not None and record.finished_at + self._result_ttl_s < now

    async def _delete(self, keys: AsyncIterator[str]) -> None:
        async for group in _in_groups(keys):
            await self._results.delete(group)


async def _in_groups(keys: AsyncIterator[str]) -> AsyncIterator[list[str]]:
    """Lists of up to AT_ONCE keys."""
    group: list[str] = []
    async for key in keys:
        group.append(key)
        if len(group) == AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _needs_photo(record: TaskRecord, now: float) -> bool:
    """Whether a process will still run the task, or an operator may requeue it."""
    return record.dead or (not record.finished and now < record.task.deadline + OVERDUE_S)

"""Recovery of lost queue messages, and purge of dead letters. One worker at a time runs it.

A task whose message is lost (a stream that was deleted, evicted or trimmed, a new consumer group) is queued again. A
dead letter that was not requeued in time is deleted with its files.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any

from serve_app.backends.object_store import Results
from serve_app.backends.redis import Redis
from serve_app.tasks.keys import TaskKeys
from serve_app.tasks.models import LEASE_S, UNFINISHED, task_files
from serve_app.tasks.store import TaskStore
from serve_app.tasks.stream import Message, TaskQueue
from serve_app.worker.periodic import acquire_lock

AT_ONCE = 200  # tasks checked in one call

log = logging.getLogger(__name__)


class Recovery:
    """Runs in every worker; the one that gets the lock does the work."""

    name = "recovery"
    every_s = LEASE_S / 2

    def __init__(self, redis: Redis, tasks: TaskStore, queue: TaskQueue, results: Results, dead_ttl_s: int) -> None:
        self._redis = redis
        self._keys = TaskKeys(redis.prefix)
        self._tasks = tasks
        self._queue = queue
        self._results = results
        self._dead_ttl_s = dead_ttl_s

    async def run_once(self) -> None:
        """Does nothing if another worker has run it recently. Raises: BrokerError; StoreError."""
        if not await acquire_lock(self._redis, "reaper", self.every_s):
            return
        waiting: Any = await self._redis.zrange(self._keys.open, 0, -1)
        for first in range(0, len(waiting), AT_ONCE):
            await self._requeue_lost(waiting[first : first + AT_ONCE])
        await self._purge_dead_letters()

    async def _requeue_lost(self, task_ids: Sequence[str]) -> None:
        """Queue the tasks again that no process runs and whose message is lost."""
        pipe = self._redis.pipeline(transaction=False)
        for task_id in task_ids:
            pipe.hmget(self._keys.record(task_id), "status", "message_id", "priority")
            pipe.exists(self._keys.lease(task_id))
        found = await pipe.execute()
        idle: list[Message] = []
        for task_id, (status, message_id, priority), leased in zip(task_ids, found[::2], found[1::2], strict=True):
            if status not in UNFINISHED:  # its record has expired
                await self._tasks.requeue_lost(task_id, "")
            elif message_id and not leased:
                idle.append(Message(message_id, task_id, "low" if priority == "low" else "normal"))
        for message in await self._queue.lost(idle) if idle else ():
            if await self._tasks.requeue_lost(message.task_id, message.message_id):
                log.warning("task %s was lost from the queue, and is queued again", message.task_id)

    async def _purge_dead_letters(self) -> None:
        """Delete the dead letters that are older than their time to live."""
        task_ids = await self._tasks.dead(until=time.time() - self._dead_ttl_s)
        for task_id in task_ids:
            record = await self._tasks.get(task_id)
            if record is not None:
                await self._results.delete(task_files(record.task))
        if task_ids:
            await self._tasks.forget_dead(task_ids)

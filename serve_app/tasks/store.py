"""The records of tasks, which are authoritative for their requests, states and outcomes.

A record is a hash in Redis, and each change of it an atomic Lua script: of two processes that try the same, one wins.
All but those that create one also work when the broker's memory is full, so that tasks can end then. The process that
works on a task owns its lease, a key that expires soon after the process dies. Photos and their URLs are not recorded.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deployments.types import ImageProgress
from serve_app.backends.lua import Script
from serve_app.backends.redis import BrokerPipeline, Redis
from serve_app.errors import ConflictError
from serve_app.schemas.responses import Status
from serve_app.tasks.due_webhooks import DueWebhooks
from serve_app.tasks.keys import TaskKeys
from serve_app.tasks.models import (
    AVATAR,
    DEAD_TTL_S,
    FAILURE_TTL_S,
    IMAGE_PROGRESS,
    LEASE_S,
    MAX_FAILURES,
    Claim,
    Delivery,
    Outcome,
    QueueMove,
    StoredAvatar,
    Task,
    TaskRecord,
    record_from,
    without_long_texts,
)
from serve_app.tasks.progress import MAX_CHANGES

LUA = Path(__file__).with_name("lua")
CREATING = ("create", "create_queued")  # refused when the broker's memory is full
MAX_OPEN_S = 7200  # a queued task has ended long before, unless its record was lost
DEAD_MARGIN_S = 3600  # a dead letter's record outlives its list entry, so that the purge finds it
AT_ONCE = 500  # records read in one call


class TaskStore:
    """Creates, reads and changes records. `lease_owner` names this process in its leases.

    Every method raises BrokerError while Redis is unavailable.
    """

    def __init__(
        self,
        redis: Redis,
        lease_owner: str,
        ttl_s: int,
        lease_s: float = LEASE_S,
        dead_ttl_s: int = DEAD_TTL_S,
    ) -> None:
        self._redis = redis
        self._keys = TaskKeys(redis.prefix)
        self._lease_owner = lease_owner
        self._ttl_s = ttl_s
        self._lease_ms = round(lease_s * 1000)
        self._dead_ttl_s = dead_ttl_s
        self._scripts: dict[str, Script] = {}
        keys = self._keys
        self._due = DueWebhooks(redis, keys.webhooks, keys.webhook_owners, keys.record(""))

    async def create(self, task: Task, status: Status, body_digest: str = "") -> str:
        """Record a task, leased by this process; returns its id, or that of the task that has its idempotency key.

        Raises: ConflictError where that task has another request body.
        """
        known = await self._run(
            "create",
            task.task_id,
            task.idempotency,
            task=task.model_dump_json(),
            new_status=status,
            lease_ms=self._lease_ms,
            ttl_s=self._record_ttl_s(task),
            priority=task.request.priority,
            body_digest=body_digest,
            key_ttl_s=self._ttl_s,
            has_webhook=int(task.webhook is not None),
            task_owner=task.owner,
        )
        task_id, _, digest = str(known).partition(" ")
        if digest != body_digest:
            raise ConflictError("This idempotency key came with another request before.", task_id=task_id)
        return task_id

    async def knows(self, task: Task) -> bool:
        """Whether a task with its idempotency key exists already."""
        if task.idempotency is None:
            return False
        known = await self._redis.get(self._keys.idempotency(task.idempotency))
        return known is not None and bool(await self._redis.exists(self._keys.record(str(known).partition(" ")[0])))

    async def get(self, task_id: str) -> TaskRecord | None:
        """The record of a task; None where there is none, or not any more."""
        pipe: Any = self._redis.pipeline(transaction=False)
        fields, leased = await pipe.hgetall(self._keys.record(task_id)).exists(self._keys.lease(task_id)).execute()
        return record_from(fields, is_leased=bool(leased)) if fields else None

    async def enqueue(self, task_id: str, *, behind: bool = False) -> TaskRecord | None:
        """Queue a task that this process has leased, and release it; None where it was cancelled meanwhile.

        `behind`: among the tasks of low priority, because its owner floods the service.
        """
        fields: Any = await self._run("enqueue", task_id, behind=int(behind))
        return record_from(dict(zip(fields[::2], fields[1::2], strict=True)), is_leased=False) if fields else None

    async def create_queued(self, task: Task, move: QueueMove) -> bool:
        """Record a task of low priority and queue it, in one step; false where `move.member` waits no more.

        Raises: BrokerFullError.
        """
        created = await self._run(
            "create_queued",
            task.task_id,
            task=task.model_dump_json(),
            ttl_s=self._record_ttl_s(task),
            has_webhook=int(task.webhook is not None),
            task_owner=task.owner,
            **move._asdict(),
        )
        return bool(created)

    async def claim(self, task_id: str, status: Status = "STARTED") -> Claim:
        """Lease a task, to run it (STARTED) or to put it into the queue (PENDING)."""
        return Claim(str(await self._run("claim", task_id, lease_ms=self._lease_ms, new_status=status)))

    async def lease_left_s(self, task_id: str) -> float:
        """Seconds until the lease of a task expires unless it is renewed; 0 where it is not leased."""
        return max(0, int(await self._redis.pttl(self._keys.lease(task_id)))) / 1000

    async def renew(self, task_ids: Sequence[str]) -> list[bool]:
        """Renew leases; false where the task is finished or leased by another process."""
        pipe = self._redis.pipeline(transaction=False)
        for task_id in task_ids:
            await self._run("renew", task_id, None, pipe, lease_ms=self._lease_ms)
        return [bool(renewed) for renewed in await pipe.execute()]

    async def statuses(self, task_ids: Sequence[str]) -> list[str | None]:
        """The statuses of tasks, in their order; None where there is no record."""
        pipe = self._redis.pipeline(transaction=False)
        for task_id in task_ids:
            pipe.hget(self._keys.record(task_id), "status")
        statuses: list[str | None] = await pipe.execute()
        return statuses

    async def note_image(self, task_id: str, index: int, avatar: StoredAvatar) -> None:
        """Record a finished image of an unfinished task: if the task is run again, only the other images are made."""
        await self._run("note_image", task_id, index=index, avatar=AVATAR.dump_json(avatar).decode())

    async def finish(self, task: Task, status: Status, outcome: Outcome, *, dead: bool = False) -> bool:
        """Record how a task ended; false where it was finished already, or is leased by another process.

        A failure of the service (5xx) or a rate limit (429) frees its idempotency key, so that a repeat is a new
        attempt. A `dead` task goes to the dead letters, with the images that it has. Of other failures the newest
        MAX_FAILURES of an owner are kept; where no queue had the task, for FAILURE_TTL_S and without long texts.
        """
        retryable = outcome.failure is not None and (outcome.failure.status >= 500 or outcome.failure.status == 429)
        finished = await self._run(
            "finish",
            task.task_id,
            task.idempotency,
            final=status,
            outcome=outcome.model_dump_json(),
            ttl_s=self._dead_ttl_s + DEAD_MARGIN_S if dead else self._ttl_s,
            frees_key=int(retryable and task.idempotency is not None),
            is_dead=int(dead),
            images=task.request.batch,
            **self._kept_failure(task),
        )
        return bool(finished)

    async def hand_back(self, task_id: str) -> bool:
        """Return a task that this process was running to the queue, for another worker."""
        return bool(await self._run("hand_back", task_id))

    async def cancel(self, task_id: str) -> bool:
        """Cancel an unfinished task; the process that runs it notices. False where it was finished already."""
        record = await self.get(task_id)
        if record is None:
            return False
        failure = self._kept_failure(record.task)
        return bool(await self._run("cancel", task_id, record.task.idempotency, ttl_s=self._ttl_s, **failure))

    async def requeue_lost(self, task_id: str, message_id: str) -> bool:
        """Put an unfinished task that no process runs, and whose message is lost, into the queue again."""
        return bool(await self._run("requeue_lost", task_id, lost_message=message_id))

    async def dead(self, until: float | None = None) -> list[str]:
        """The ids of the dead letters, the oldest first; with `until` (unix seconds), of those that died by then."""
        last = "+inf" if until is None else str(until)
        return [str(task_id) for task_id in await self._redis.zrange(self._keys.dead, "-inf", last, byscore=True)]

    async def counts(self) -> Counter[str]:
        """The number of records by status. Reads every record, so it is for operators only."""
        counts: Counter[str] = Counter()
        for task_ids in await self._all_ids():
            counts.update(status for status in await self.statuses(task_ids) if status is not None)
        return counts

    async def all_tasks(self) -> list[Task]:
        """The tasks of all records, in order of submission. Reads every record, so it is for operators only."""
        tasks: list[Task] = []
        for task_ids in await self._all_ids():
            pipe = self._redis.pipeline(transaction=False)
            for task_id in task_ids:
                pipe.hget(self._keys.record(task_id), "task")
            tasks += [Task.model_validate_json(text) for text in await pipe.execute() if text is not None]
        return sorted(tasks, key=lambda task: task.submitted_at)

    async def _all_ids(self) -> list[list[str]]:
        """The ids of all records, as many together as are read in one call."""
        prefix = len(self._keys.record(""))
        names = [name async for name in self._redis.scan_iter(self._keys.record("*"), count=1000)]
        task_ids = [name[prefix:] for name in names]
        return [task_ids[first : first + AT_ONCE] for first in range(0, len(task_ids), AT_ONCE)]

    async def requeue(self, record: TaskRecord) -> bool:
        """Requeue a dead letter as if it were new, with all its attempts; false where it is none."""
        task = record.task.model_copy(update={"submitted_at": time.time()})
        ttl_s = self._record_ttl_s(task)
        return bool(await self._run("requeue", task.task_id, task=task.model_dump_json(), ttl_s=ttl_s))

    async def forget_dead(self, task_ids: Sequence[str]) -> None:
        """Delete dead letters with their records."""
        pipe: Any = self._redis.pipeline(transaction=False)  # a full broker refuses transactions
        await pipe.unlink(*map(self._keys.record, task_ids)).zrem(self._keys.dead, *task_ids).execute()

    async def due_webhooks(
        self, count: int, of_owner: int, calls: Mapping[str, int], lease_s: float
    ) -> list[tuple[str, str]]:
        """As `DueWebhooks.lease`, of finished tasks."""
        return await self._due.lease(count, of_owner, calls, lease_s)

    async def note_delivery(self, task_id: str, delivery: Delivery, again_at: float | None) -> None:
        """Record an attempt; the next one is at `again_at` (unix seconds), None where there is none."""
        again = "" if again_at is None else again_at
        await self._run("note_delivery", task_id, delivery=delivery.model_dump_json(), again_at=again)

    async def forget_avatars(self, record: TaskRecord) -> None:
        """Delete the avatars from the record of a finished task."""
        outcome = record.outcome.model_copy(update={"avatars": ()})
        await self._run("replace_outcome", record.task.task_id, outcome=outcome.model_dump_json())

    async def progress(self, task_id: str) -> dict[int, ImageProgress]:
        """The progress of the images that are being made or wait for that, by their index."""
        found = await self._redis.hgetall(self._keys.progress(task_id))
        return {int(index): IMAGE_PROGRESS.validate_json(value) for index, value in found.items()}

    async def ping(self) -> None:
        """Ask Redis for an answer, for readiness checks."""
        await self._redis.ping()

    def _kept_failure(self, task: Task) -> dict[str, str | float]:
        short_task, short_ttl_s = without_long_texts(task).model_dump_json(), min(FAILURE_TTL_S, self._ttl_s)
        return {"short_task": short_task, "short_ttl_s": short_ttl_s, "max_failures": MAX_FAILURES}

    def _record_ttl_s(self, task: Task) -> int:
        return self._ttl_s + round(task.request.deadline_s)

    async def _run(
        self,
        change: str,
        task_id: str,
        idempotency: str | None = None,
        client: BrokerPipeline | None = None,
        /,
        **arguments: str | float,
    ) -> object:
        if change not in self._scripts:
            files = LUA / "task.lua", LUA / f"{change}.lua"
            self._scripts[change] = Script(self._redis, *files, when_full=change not in CREATING)
        return await self._scripts[change](
            client,
            **self._keys.of_task(task_id),
            idempotency=self._keys.idempotency(idempotency or ""),
            task_id=task_id,
            lease_owner=self._lease_owner,
            now=time.time(),
            max_open_s=MAX_OPEN_S,
            max_changes=MAX_CHANGES,
            **arguments,
        )

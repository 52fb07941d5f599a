"""The records of batches. Each change is one atomic script, so that a process that dies leaves no half of it.

The broker has of each request only its `custom_id`, a digest and the id of its task, about 500 bytes: the request and
its photos are in the object store until it is queued, and only as many are queued as keep the workers busy.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from serve_app.backends.lua import Script
from serve_app.backends.redis import Redis
from serve_app.batches.keys import BatchKeys
from serve_app.batches.models import Batch, BatchItem, BatchRecord, BatchState, EndedItem, Ending, Verdict
from serve_app.errors import ConflictError, RateLimitError
from serve_app.generation.settings import BatchSettings
from serve_app.tasks.due_webhooks import DueWebhooks
from serve_app.tasks.models import Delivery, QueueMove

LUA = Path(__file__).with_name("lua")
RESERVED_S = 600  # the files of a chunk that is being added are kept so long; longer than adding one takes
MAX_LISTED = 100
RETRY_AFTER_S = 60


class BatchStore:
    """Creates, reads and changes batches. Every method raises BrokerError while Redis is unavailable."""

    def __init__(self, redis: Redis, settings: BatchSettings, result_ttl_s: int) -> None:
        self._redis = redis
        self._keys = BatchKeys(redis)
        self._settings = settings
        self._kept_s = result_ttl_s
        self._open = Script(redis, LUA / "open.lua", when_full=False)
        keys = self._keys
        self._due = DueWebhooks(redis, keys.webhooks, keys.webhook_owners, keys.record(""))
        self._scripts: dict[str, Script] = {}

    async def open(self, batch: Batch, digest: str) -> None:
        """Record a batch; one with this id and digest may be there already.

        Raises: ConflictError where another one is; RateLimitError where its owner has too many.
        """
        most = self._settings.max_unfinished
        known = await self._open(
            record=self._keys.record(batch.batch_id),
            active=self._keys.active,
            of_owner=self._keys.of_owner(batch.owner),
            batch_id=batch.batch_id,
            batch=batch.model_dump_json(),
            digest=digest,
            now=batch.created_at,
            ttl_s=round(self._settings.deadline_s) + self._kept_s,
            most=most,
            owner=batch.owner,
            has_webhook=int(batch.webhook is not None),
        )
        if known == "full":
            raise RateLimitError(f"You have {most} batches that are not finished.", RETRY_AFTER_S)
        if known not in ("", digest):
            raise ConflictError("This idempotency key opened another batch before.")

    async def get(self, batch_id: str) -> BatchRecord | None:
        """None where there is none, or not any more."""
        pipe: Any = self._redis.pipeline(transaction=False)
        fields, waiting = await pipe.hgetall(self._keys.record(batch_id)).zcard(self._keys.waiting(batch_id)).execute()
        return _record(fields, waiting) if fields else None

    async def of_owner(self, owner: str) -> list[BatchRecord]:
        """The newest MAX_LISTED of an owner, the newest first."""
        ids: Any = await self._redis.zrange(self._keys.of_owner(owner), 0, MAX_LISTED - 1, desc=True)
        return [record for batch_id in ids if (record := await self.get(batch_id)) is not None]

    async def reserve(self, batch: Batch, items: Sequence[BatchItem]) -> Verdict:
        """What of a chunk is new and whether that fits; its files are kept for RESERVED_S then."""
        return await self._chunk(batch, [(item, 0) for item in items], adds=False)

    async def add(self, batch: Batch, items: Sequence[tuple[BatchItem, int]]) -> Verdict:
        """Add what is new of a chunk, with the bytes that it has in the store, where all of that fits."""
        return await self._chunk(batch, items, adds=True)

    async def close(self, batch_id: str) -> None:
        """Accept no more requests; may be repeated."""
        await self._run("close", batch_id)

    async def give_up_waiting(self, batch_id: str, ending: Ending) -> list[BatchItem]:
        """End a batch early: what waits ends so, what is queued is left; returns what waited."""
        status = "CANCELLED" if ending is Ending.CANCELLED else "CLOSED"
        found: Any = await self._run("give_up_waiting", batch_id, new_status=status, ending=ending)
        return [BatchItem.read(custom_id, value) for custom_id, value in found]

    async def settle(self, batch_id: str, endings: Iterable[tuple[str, Ending]] = ()) -> None:
        """Note how requests ended (by their `custom_id`), each once, and whether the batch has."""
        await self._run("settle", batch_id, endings=json.dumps([*endings]))

    async def waiting(self, batch_id: str, most: int) -> list[BatchItem]:
        """The next requests to be queued."""
        custom_ids: Any = await self._redis.zrange(self._keys.waiting(batch_id), 0, most - 1)
        return await self._items(batch_id, custom_ids)

    async def defer(self, batch_id: str, custom_id: str) -> None:
        """Put a request that waits behind all others of its batch."""
        await self._redis.zadd(self._keys.waiting(batch_id), {custom_id: time.time()}, xx=True)

    async def queued(self, batch_id: str) -> list[BatchItem]:
        """Those that are tasks now, or were and were not settled yet."""
        custom_ids: Any = await self._redis.zrange(self._keys.queued(batch_id), 0, -1)
        return await self._items(batch_id, custom_ids)

    async def ended(self, batch_id: str, after: int, most: int) -> list[EndedItem]:
        """The requests that ended after the one with this index, in that order."""
        members: Any = await self._redis.zrange(
            self._keys.ended(batch_id), f"({after}", "+inf", byscore=True, offset=0, num=most, withscores=True
        )
        parts = [str(member).partition(" ") for member, _ in members]
        items = await self._items(batch_id, [custom_id for _, _, custom_id in parts])
        positions = [int(score) for _, score in members]
        return [
            EndedItem(position, Ending(ending), item)
            for position, (ending, _, _), item in zip(positions, parts, items, strict=True)
        ]

    async def active(self) -> list[str]:
        """The batches that are not over, first those whose last turn is longest ago."""
        return [str(batch_id) for batch_id in await self._redis.zrange(self._keys.active, 0, -1)]

    async def had_turn(self, batch_id: str, *, gone: bool = False) -> None:
        """Put a batch behind the others; `gone`: its record expired, and it is none any more."""
        if gone:
            await self._redis.zrem(self._keys.active, batch_id)
        else:
            await self._redis.zadd(self._keys.active, {batch_id: time.time()}, xx=True)

    async def due_webhooks(
        self, count: int, of_owner: int, calls: Mapping[str, int], lease_s: float
    ) -> list[tuple[str, str]]:
        """As `DueWebhooks.lease`, of batches that are over."""
        return await self._due.lease(count, of_owner, calls, lease_s)

    async def note_delivery(self, batch_id: str, delivery: Delivery, again_at: float | None) -> None:
        """Record an attempt; the next one is at `again_at` (unix seconds), None where there is none."""
        again = "" if again_at is None else again_at
        await self._run("note_delivery", batch_id, delivery=delivery.model_dump_json(), again_at=again)

    def move(self, batch_id: str, custom_id: str) -> QueueMove:
        """What `TaskStore.create_queued` does to a request of a batch."""
        keys = self._keys
        return QueueMove(keys.waiting(batch_id), keys.queued(batch_id), keys.reserved, custom_id)

    async def _chunk(self, batch: Batch, items: Sequence[tuple[BatchItem, int]], *, adds: bool) -> Verdict:
        found: Any = await self._run(
            "add",
            batch.batch_id,
            most=self._settings.max_requests,
            max_bytes=self._settings.max_bytes,
            deadline=batch.deadline,
            adds=int(adds),
            reserved_until=time.time() + RESERVED_S,
            requests=json.dumps([[item.custom_id, item.value, size] for item, size in items]),
        )
        return Verdict(*found)

    async def _items(self, batch_id: str, custom_ids: Sequence[str]) -> list[BatchItem]:
        if not custom_ids:
            return []
        values: Any = await self._redis.hmget(self._keys.items(batch_id), [*custom_ids])
        return [BatchItem.read(custom_id, value) for custom_id, value in zip(custom_ids, values, strict=True)]

    async def _run(self, change: str, batch_id: str, /, **arguments: str | float) -> object:
        if change not in self._scripts:
            files = LUA / "batch.lua", LUA / f"{change}.lua"
            self._scripts[change] = Script(self._redis, *files, when_full=change != "add")
        common: dict[str, str | float] = {"batch_id": batch_id, "now": time.time(), "kept_s": self._kept_s}
        return await self._scripts[change](**self._keys.of_batch(batch_id), **common, **arguments)


def _record(fields: dict[str, str], waiting: int) -> BatchRecord:
    status, finished_at, delivery = fields["status"], fields.get("finished_at"), fields.get("delivery")
    if status == "CANCELLED":
        state = BatchState.CANCELLED
    elif status == "OPEN":
        state = BatchState.OPEN
    else:
        state = BatchState.RUNNING if finished_at is None else BatchState.FINISHED
    endings = {ending: int(fields.get(f"ended:{ending}", 0)) for ending in Ending}
    return BatchRecord(
        batch=Batch.model_validate_json(fields["batch"]),
        state=state,
        finished_at=None if finished_at is None else float(finished_at),
        total=int(fields["added"]),
        waiting=waiting,
        succeeded=endings[Ending.SUCCESS],
        failed=endings[Ending.FAILED] + endings[Ending.EXPIRED],
        cancelled=endings[Ending.CANCELLED],
        delivery=None if delivery is None else Delivery.model_validate_json(delivery),
    )

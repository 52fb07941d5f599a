"""The queue: two Redis streams with a consumer group of workers. Messages are hints; the records are authoritative.

A message stays pending until its task is finished. Its worker touches it meanwhile; a message that was not touched for
the length of a lease belongs to a dead worker, and another one takes it over (XAUTOCLAIM).

Tasks of low priority have their own stream. They are taken when no normal ones wait, and otherwise one after every
NORMAL_IN_A_ROW normal ones, so that they never starve.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from serve_app.backends.redis import Redis
from serve_app.errors import BrokerError
from serve_app.schemas.requests import Priority
from serve_app.tasks.keys import TaskKeys
from serve_app.tasks.models import LEASE_S

GROUP = "workers"
LEASE_MARGIN_S = 0.5
SWEEPS = 8  # for messages of dead workers, in the time of a lease
NORMAL_IN_A_ROW = 7
GONE_CONSUMER_S = 3600
FIRST = "0-0"


class Message(NamedTuple):
    """A queued task: the id of its stream entry, and the stream."""

    message_id: str
    task_id: str
    priority: Priority = "normal"


class TaskQueue:
    """One worker's view of the queue. Every method raises BrokerError while Redis is unavailable."""

    def __init__(self, redis: Redis, consumer: str, lease_s: float = LEASE_S) -> None:
        self._redis, keys = redis, TaskKeys(redis.prefix)
        self._streams: dict[Priority, str] = {"normal": keys.queue, "low": keys.low_queue}
        self._consumer = consumer
        self._lease_s = lease_s
        self._normal_in_a_row = 0
        self._next_sweep = 0.0
        # Where the next sweep of a stream continues: XAUTOCLAIM scans ten pending messages for each that it may take.
        self._cursors: dict[Priority, str] = dict.fromkeys(self._streams, FIRST)

    async def take(self, count: int, wait_s: float, left: int | None = None) -> list[Message]:
        """Up to `left` messages of dead workers, or else up to `count` new ones, waiting up to `wait_s` for the first.

        Without `left`, `count` applies to both.
        """
        try:
            return await self._take(count, wait_s, count if left is None else left)
        except BrokerError as error:
            if "NOGROUP" in str(error.__cause__):
                await self._make_groups()
                return []
            # No worker could touch its messages meanwhile: let the living ones do that before the next sweep.
            self._next_sweep = time.monotonic() + self._lease_s + LEASE_MARGIN_S
            raise

    async def touch(self, messages: Iterable[Message]) -> None:
        """Keep messages whose tasks are running from being taken over."""
        by_priority: defaultdict[Priority, list[Any]] = defaultdict(list)
        for message in messages:
            by_priority[message.priority].append(message.message_id)
        for priority, message_ids in by_priority.items():
            await self._redis.xclaim(self._streams[priority], GROUP, self._consumer, 0, message_ids, justid=True)

    async def postpone(self, message: Message, wait_s: float) -> None:
        """Have a message delivered again, to any worker, after `wait_s`."""
        idle_s = max(0.0, self._lease_s + LEASE_MARGIN_S - wait_s)
        stream, ids, idle_ms = self._streams[message.priority], (message.message_id,), round(idle_s * 1000)
        await self._redis.xclaim(stream, GROUP, self._consumer, 0, ids, idle=idle_ms, justid=True)

    async def remove(self, message: Message) -> None:
        """Delete a message for good, whether a worker has it or not; may be repeated."""
        stream = self._streams[message.priority]
        pipe: Any = self._redis.pipeline(transaction=False)  # a full broker refuses transactions
        # In this order, as a sweep drops what is pending and deleted, but nothing deletes what is no longer pending.
        await pipe.xdel(stream, message.message_id).xack(stream, GROUP, message.message_id).execute()

    async def length(self) -> int:
        """The number of tasks that wait or run."""
        return sum([int(await self._redis.xlen(stream)) for stream in self._streams.values()])

    async def lost(self, messages: Sequence[Message]) -> list[Message]:
        """Those of the messages that no worker will get: they neither wait nor are pending."""
        delivered = {priority: _order(await self._last_delivered(priority)) for priority in self._streams}
        pipe = self._redis.pipeline(transaction=False)
        for message_id, _, priority in messages:
            pipe.xrange(self._streams[priority], message_id, message_id)
            pipe.xpending_range(self._streams[priority], GROUP, message_id, message_id, 1)
        found = await pipe.execute(raise_on_error=False)  # where a stream is gone, so is its group
        return [
            message
            for message, entry, pending in zip(messages, found[::2], found[1::2], strict=True)
            if not entry or (not pending and _order(message.message_id) <= delivered[message.priority])
        ]

    async def _take(self, count: int, wait_s: float, left: int) -> list[Message]:
        if left and time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + self._lease_s / SWEEPS
            taken_over = await self._take_over(left)
            if taken_over or any(cursor != FIRST for cursor in self._cursors.values()):
                self._next_sweep = 0.0  # there may be more
            if taken_over:
                return taken_over
        if not count:
            return []
        # It waits for normal messages only: one of low priority is found with the next call.
        return await self._take_new(count) or await self._read("normal", count, wait_s)

    async def _take_new(self, count: int) -> list[Message]:
        left = NORMAL_IN_A_ROW - self._normal_in_a_row
        if left <= 0:
            self._normal_in_a_row = 0
            if low := await self._read("low", 1):
                return low
            left = NORMAL_IN_A_ROW
        if messages := await self._read("normal", min(count, left)):
            self._normal_in_a_row += len(messages)
            return messages
        return await self._read("low", count)

    async def _read(self, priority: Priority, count: int, wait_s: float | None = None) -> list[Message]:
        """Undelivered messages; with `wait_s`, waits that long for the first."""
        block_ms = None if wait_s is None else max(1, round(wait_s * 1000))
        streams: Any = {self._streams[priority]: ">"}
        answer: Any = await self._redis.xreadgroup(GROUP, self._consumer, streams, count=count, block=block_ms)
        return [_message(entry, priority) for _stream, entries in answer or () for entry in entries]

    async def _take_over(self, count: int) -> list[Message]:
        # Longer than a lease, which starts a moment after the delivery of the message.
        idle_ms = round((self._lease_s + LEASE_MARGIN_S) * 1000)
        for priority, stream in self._streams.items():
            self._cursors[priority], entries, *_deleted = await self._redis.xautoclaim(
                stream, GROUP, self._consumer, idle_ms, self._cursors[priority], count=count
            )
            await self._forget_consumers(stream)
            if entries:
                return [_message(entry, priority) for entry in entries]
        return []

    async def _last_delivered(self, priority: Priority) -> str:
        """The id of the last message that was delivered to a worker."""
        return str((await self._group(priority))["last-delivered-id"])

    async def _group(self, priority: Priority) -> dict[str, Any]:
        """The consumer group of a stream as XINFO GROUPS describes it."""
        try:
            groups = await self._redis.xinfo_groups(self._streams[priority])
        except BrokerError as error:
            if not isinstance(error.__cause__, ResponseError):
                raise
            groups = []  # no stream yet
        before_first_worker = {"pending": 0, "last-delivered-id": FIRST}
        return next((group for group in groups if group["name"] == GROUP), before_first_worker)

    async def _forget_consumers(self, stream: str) -> None:
        """Delete the consumers of worker processes that ended long ago, with nothing pending."""
        for consumer in await self._redis.xinfo_consumers(stream, GROUP):
            if consumer["pending"] == 0 and consumer["idle"] > GONE_CONSUMER_S * 1000:
                await self._redis.xgroup_delconsumer(stream, GROUP, consumer["name"])

    async def _make_groups(self) -> None:
        for stream in self._streams.values():
            try:
                await self._redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
            except BrokerError as error:
                if "BUSYGROUP" not in str(error.__cause__):
                    raise


def _message(entry: tuple[str, dict[str, Any]], priority: Priority) -> Message:
    message_id, fields = entry
    return Message(message_id, fields["task_id"], priority)


def _order(message_id: str) -> tuple[int, int]:
    milliseconds, _, number = message_id.partition("-")
    return int(milliseconds), int(number)

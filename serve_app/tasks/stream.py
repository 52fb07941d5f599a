"""The queue: two Redis streams that a group of workers reads. Its messages are hints; the records are the truth.

A message stays pending until the task is over. Its worker touches it while it works; what nobody touched for as long as
a lease lasts belongs to a worker that died, and the next one that looks takes it over (XAUTOCLAIM).

Tasks of low priority have a stream of their own. They are taken when no other waits; while others wait, one after every
NORMAL_IN_A_ROW of those, so that they come to their turn in any case.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from serve_app.errors import BrokerError
from serve_app.schemas.requests import Priority
from serve_app.tasks.models import LEASE_S, Keys

GROUP = "workers"
LEASE_MARGIN_S = 0.5
SWEEPS = 8  # for what dead workers left, in the time of a lease
NORMAL_IN_A_ROW = 7
MAX_POSITION = 1000  # further back nobody counts
GONE_CONSUMER_S = 3600
FIRST = "0-0"

# KEYS: stream; ARGV: first, last, at most. The entries themselves would be a thousand for each client that asks.
COUNT = "return #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])"


class Message(NamedTuple):
    message_id: str
    task_id: str
    priority: Priority = "normal"


class TaskQueue:
    """One worker's view of the queue. Every method raises BrokerError where Redis does not answer."""

    def __init__(self, redis: Redis, keys: Keys, consumer: str, lease_s: float = LEASE_S) -> None:
        self._redis = redis
        self._streams: dict[Priority, str] = {"normal": keys.queue, "low": keys.low_queue}
        self._consumer = consumer
        self._lease_s = lease_s
        self._count = redis.register_script(COUNT)
        self._normal_in_a_row = 0
        self._next_sweep = 0.0
        # Of the sweep of each stream, which looks at ten pending messages for each that it may take.
        self._cursors: dict[Priority, str] = dict.fromkeys(self._streams, FIRST)

    async def take(self, count: int, wait_s: float, left: int | None = None) -> list[Message]:
        """Up to `left` messages that a dead worker left; else up to `count` new ones, waiting a while for the first.

        Without `left`, `count` is that of both kinds.
        """
        try:
            return await self._take(count, wait_s, count if left is None else left)
        except BrokerError as error:
            if "NOGROUP" in str(error.__cause__):
                await self._make_groups()
                return []
            # Nobody could touch a message meanwhile: the living come first when it is back.
            self._next_sweep = time.monotonic() + self._lease_s + LEASE_MARGIN_S
            raise

    async def touch(self, messages: Iterable[Message]) -> None:
        """Keep messages that are being worked on from being taken over."""
        held: defaultdict[Priority, list[Any]] = defaultdict(list)
        for message in messages:
            held[message.priority].append(message.message_id)
        for priority, message_ids in held.items():
            await self._redis.xclaim(self._streams[priority], GROUP, self._consumer, 0, message_ids, justid=True)

    async def postpone(self, message: Message, wait_s: float) -> None:
        """Let a message that was taken come again, to any worker, so many seconds from now."""
        idle_s = max(0.0, self._lease_s + LEASE_MARGIN_S - wait_s)
        stream, ids, idle_ms = self._streams[message.priority], (message.message_id,), round(idle_s * 1000)
        await self._redis.xclaim(stream, GROUP, self._consumer, 0, ids, idle=idle_ms, justid=True)

    async def remove(self, message: Message) -> None:
        stream = self._streams[message.priority]
        pipe = self._redis.pipeline()
        pipe.xack(stream, GROUP, message.message_id)
        pipe.xdel(stream, message.message_id)
        await pipe.execute()

    async def length(self) -> int:
        """How many tasks wait and run."""
        return sum([int(await self._redis.xlen(stream)) for stream in self._streams.values()])

    async def running(self) -> int:
        """How many of them are in the hands of workers."""
        try:
            pending = [await self._redis.xpending(stream, GROUP) for stream in self._streams.values()]
        except BrokerError as error:
            if not isinstance(error.__cause__, ResponseError):
                raise
            return 0  # no worker was here yet
        return sum(int(of_stream["pending"]) for of_stream in pending)

    async def position(self, message: Message) -> int:
        """1 is next; 0 has been handed to a worker. Of what waits now; who comes later may pass one of low priority."""
        place = await self._waiting(message.priority, message.message_id)
        return await self._among_both(place, message.priority) if place else 0

    async def next_position(self, priority: Priority) -> int:
        """That of a message that would come now."""
        return await self._among_both(await self._waiting(priority, "+") + 1, priority)

    async def lost(self, messages: Sequence[Message]) -> list[Message]:
        """Those that will reach no worker: neither waiting nor in the hands of one."""
        handed_out = {priority: _order(await self._handed_out(priority)) for priority in self._streams}
        pipe = self._redis.pipeline(transaction=False)
        for message_id, _, priority in messages:
            pipe.xrange(self._streams[priority], message_id, message_id)
            pipe.xpending_range(self._streams[priority], GROUP, message_id, message_id, 1)
        found = await pipe.execute(raise_on_error=False)  # where a stream is gone, so is its group
        return [
            message
            for message, entry, pending in zip(messages, found[::2], found[1::2], strict=True)
            if not entry or (not pending and _order(message.message_id) <= handed_out[message.priority])
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
        # Whoever waits, waits for the usual ones: one of low priority may be found a moment later.
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
        """Messages that nobody got yet; waits for the first where it is told how long."""
        block_ms = None if wait_s is None else max(1, round(wait_s * 1000))
        streams: Any = {self._streams[priority]: ">"}
        answer: Any = await self._redis.xreadgroup(GROUP, self._consumer, streams, count=count, block=block_ms)
        return [_message(entry, priority) for _stream, entries in answer or () for entry in entries]

    async def _take_over(self, count: int) -> list[Message]:
        # Later than the lease, which begins a moment after the message was handed out.
        idle_ms = round((self._lease_s + LEASE_MARGIN_S) * 1000)
        for priority, stream in self._streams.items():
            self._cursors[priority], entries, *_deleted = await self._redis.xautoclaim(
                stream, GROUP, self._consumer, idle_ms, self._cursors[priority], count=count
            )
            await self._forget_consumers(stream)
            if entries:
                return [_message(entry, priority) for entry in entries]
        return []

    async def _waiting(self, priority: Priority, last: str) -> int:
        """How many messages up to the last one no worker was handed yet."""
        first = f"({await self._handed_out(priority)}"
        count: Any = await self._count([self._streams[priority]], [first, last, MAX_POSITION])
        return int(count)

    async def _among_both(self, place: int, priority: Priority) -> int:
        """The place in both streams together of a message that is at a place in its own."""
        if priority == "low":
            return place + min(place * NORMAL_IN_A_ROW, await self._waiting("normal", "+"))
        low_turns = (place - 1) // NORMAL_IN_A_ROW
        return place + (min(low_turns, await self._waiting("low", "+")) if low_turns else 0)

    async def _handed_out(self, priority: Priority) -> str:
        """The last message that a worker was handed."""
        try:
            groups = await self._redis.xinfo_groups(self._streams[priority])
        except BrokerError as error:
            if not isinstance(error.__cause__, ResponseError):
                raise
            groups = []  # no worker was here yet
        return next((group["last-delivered-id"] for group in groups if group["name"] == GROUP), FIRST)

    async def _forget_consumers(self, stream: str) -> None:
        """Every worker process is a consumer of its own; those that went long ago with nothing pending are dropped."""
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

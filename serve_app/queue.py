"""The queue: a Redis stream that a group of workers reads. Its messages are hints; the records are the truth.

A message stays pending until the task is over. Its worker touches it while it works; what nobody touched for as long as
a lease lasts belongs to a worker that died, and the next one that looks takes it over (XAUTOCLAIM).
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from serve_app.broker import broker_errors
from serve_app.errors import BrokerError
from serve_app.tasks import LEASE_S, Keys

GROUP = "workers"
LEASE_MARGIN_S = 0.5
MAX_POSITION = 1000  # further back nobody counts
GONE_CONSUMER_S = 3600

# KEYS: queue; ARGV: first, last, at most. The entries themselves would be a thousand for each client that asks.
COUNT = "return #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])"


class Message(NamedTuple):
    message_id: str
    task_id: str


class TaskQueue:
    """One worker's view of the queue. Every method raises BrokerError where Redis does not answer."""

    def __init__(self, redis: Redis, keys: Keys, consumer: str, lease_s: float = LEASE_S) -> None:
        self._redis = redis
        self._stream = keys.queue
        self._consumer = consumer
        self._lease_s = lease_s
        self._count = redis.register_script(COUNT)
        self._next_sweep = 0.0
        self._cursor = "0-0"  # of the sweep, which looks at ten pending messages for each that it may take

    async def take(self, count: int, wait_s: float) -> list[Message]:
        """Up to `count` messages: those that a dead worker left, else new ones, waiting a while for the first."""
        try:
            async with broker_errors():
                try:
                    return await self._take(count, wait_s)
                except ResponseError as error:
                    if "NOGROUP" not in str(error):
                        raise
                    await self._make_group()
                    return []
        except BrokerError:
            # Nobody could touch a message meanwhile: the living come first when it is back.
            self._next_sweep = time.monotonic() + self._lease_s + LEASE_MARGIN_S
            raise

    async def touch(self, message_ids: Sequence[str]) -> None:
        """Keep messages that are being worked on from being taken over."""
        async with broker_errors():
            if message_ids:
                await self._redis.xclaim(self._stream, GROUP, self._consumer, 0, list(message_ids), justid=True)

    async def remove(self, message_id: str) -> None:
        async with broker_errors():
            pipe = self._redis.pipeline()
            pipe.xack(self._stream, GROUP, message_id)
            pipe.xdel(self._stream, message_id)
            await pipe.execute()

    async def length(self) -> int:
        """How many tasks wait and run."""
        async with broker_errors():
            return int(await self._redis.xlen(self._stream))

    async def position(self, message_id: str) -> int:
        """1 is next; 0 has been handed to a worker."""
        async with broker_errors():
            try:
                groups = await self._redis.xinfo_groups(self._stream)
            except ResponseError:  # no worker was here yet
                groups = []
            handed_out = next((group["last-delivered-id"] for group in groups if group["name"] == GROUP), "0-0")
            ahead: Any = await self._count([self._stream], [f"({handed_out}", message_id, MAX_POSITION])
            return int(ahead)

    async def _take(self, count: int, wait_s: float) -> list[Message]:
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + self._lease_s / 4
            if left := await self._take_over(count):
                self._next_sweep = 0.0  # there may be more
                return left
            if self._cursor != "0-0":
                self._next_sweep = 0.0
        answer: Any = await self._redis.xreadgroup(
            GROUP, self._consumer, {self._stream: ">"}, count=count, block=max(1, round(wait_s * 1000))
        )
        return [_message(entry) for _stream, entries in answer or () for entry in entries]

    async def _take_over(self, count: int) -> list[Message]:
        # Later than the lease, which begins a moment after the message was handed out.
        idle_ms = round((self._lease_s + LEASE_MARGIN_S) * 1000)
        self._cursor, entries, *_deleted = await self._redis.xautoclaim(
            self._stream, GROUP, self._consumer, idle_ms, self._cursor, count=count
        )
        await self._forget_consumers()
        return [_message(entry) for entry in entries]

    async def _forget_consumers(self) -> None:
        """Every worker process is a consumer of its own; those that went long ago with nothing pending are dropped."""
        for consumer in await self._redis.xinfo_consumers(self._stream, GROUP):
            if consumer["pending"] == 0 and consumer["idle"] > GONE_CONSUMER_S * 1000:
                await self._redis.xgroup_delconsumer(self._stream, GROUP, consumer["name"])

    async def _make_group(self) -> None:
        try:
            await self._redis.xgroup_create(self._stream, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


def _message(entry: tuple[str, dict[str, Any]]) -> Message:
    message_id, fields = entry
    return Message(message_id, fields["task_id"])

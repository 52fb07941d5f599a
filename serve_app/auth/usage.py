"""Usage of each token by day, counted in memory and written to the broker once a second.

A process that is killed loses the counts of its last second.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from serve_app.backends.redis import Redis
from serve_app.errors import BrokerError
from serve_app.tasks.models import StoredAvatar

FLUSH_S = 1.0
DAY_S = 24 * 3600
MAX_COUNTS = 10_000  # kept in memory while the broker is unavailable
LAST_USED = "tokens-used"  # a hash: when each token was last used, unix seconds

Counted = Literal["requests", "refused", "images", "diffusion_ms"]


class Usage(NamedTuple):
    """Usage of a token over some days. `refused` requests were rate limited; `diffusion_s` is generator time."""

    requests: int = 0
    refused: int = 0
    images: int = 0
    diffusion_s: float = 0.0


class UsageBook:
    """Counts the usage in one process. Lives on one event loop."""

    def __init__(self, redis: Redis, days: int) -> None:
        self._redis = redis
        self._ttl_s = days * DAY_S
        self._counts: Counter[tuple[str, str]] = Counter()  # by key and field
        self._used: dict[str, int] = {}  # tokens and when each was last used, in unix seconds
        self._writer: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    def request(self, token: str) -> None:
        """Count a request for work."""
        self._used[token] = int(time.time())
        self._count(token, "requests", 1)

    def refused(self, token: str) -> None:
        """Count a request that was rate limited."""
        self._count(token, "refused", 1)

    def made(self, token: str, avatars: Sequence[StoredAvatar]) -> None:
        """Count the images of a task that succeeded."""
        self._count(token, "images", len(avatars))
        self._count(token, "diffusion_ms", round(1000 * sum(avatar.diffusion_s for avatar in avatars)))

    async def close(self) -> None:
        """Stop the writer and write the last counts; they are lost if the broker is unavailable."""
        if self._writer is not None:
            async with self._writing:  # a write that is cancelled may have been made, and would be made again
                self._writer.cancel()
                await self._write()

    def _count(self, token: str, what: Counted, count: int) -> None:
        if not token or len(self._counts) >= MAX_COUNTS:
            return
        self._counts[_usage_key(self._redis, token, today()), what] += count
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_often())

    async def _write_often(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            async with self._writing:
                await self._write()

    async def _write(self) -> None:
        """Write the counts; they are kept for the next time while the broker is unavailable."""
        counts, used = self._counts.copy(), self._used.copy()
        if not counts:
            return
        pipe = self._redis.pipeline()  # a transaction: a broker that is full must not take a part of it
        for (key, what), count in counts.items():
            pipe.hincrby(key, what, count)
        for key in {key for key, _ in counts}:
            pipe.expire(key, self._ttl_s)
        if used:
            pipe.hset(self._redis.key(LAST_USED), mapping={token: str(at) for token, at in used.items()})
        try:
            await pipe.execute()
        except BrokerError:
            return
        self._counts = self._counts - counts
        self._used = {token: at for token, at in self._used.items() if at != used.get(token)}


def today(days_ago: int = 0) -> str:
    """The date in UTC, 2026-11-30."""
    return (datetime.now(UTC) - timedelta(days=days_ago)).date().isoformat()


def day_of(unix_s: float) -> str:
    """The date in UTC of a moment, as `today` writes it."""
    return datetime.fromtimestamp(unix_s, UTC).date().isoformat()


async def usage_of(redis: Redis, token: str, days: int) -> Usage:
    """Usage of a token in the last `days`, with today. Raises: BrokerError."""
    pipe = redis.pipeline(transaction=False)
    for days_ago in range(days):
        pipe.hgetall(_usage_key(redis, token, today(days_ago)))
    found: list[dict[str, str]] = await pipe.execute()
    counts: Counter[str] = Counter()
    for day in found:
        counts.update({what: int(count) for what, count in day.items()})
    return Usage(counts["requests"], counts["refused"], counts["images"], counts["diffusion_ms"] / 1000)


async def last_used(redis: Redis) -> dict[str, float]:
    """When each token was last used (unix seconds). Raises: BrokerError."""
    used: Any = await redis.hgetall(redis.key(LAST_USED))
    return {token: float(at) for token, at in used.items()}


def _usage_key(redis: Redis, token: str, day: str) -> str:
    """A hash: the counts of a token on a day (UTC), such as 2026-11-30."""
    return redis.key("usage", token, day)

"""How full the broker's memory is. New tasks are refused before it is full, so that those under way can be recorded."""

import time
from typing import Any, NamedTuple

from serve_app.backends.redis import Redis
from serve_app.errors import BrokerError

NEARLY_FULL = 0.8  # of maxmemory
FRESH_S = 1.0  # how long a reading is used


class BrokerMemory(NamedTuple):
    """`max_bytes`: its `maxmemory`; 0: no limit."""

    used_bytes: int
    max_bytes: int

    @property
    def is_nearly_full(self) -> bool:
        """Whether more than NEARLY_FULL of `max_bytes` is used; false where there is no limit."""
        return 0 < NEARLY_FULL * self.max_bytes < self.used_bytes


async def read_memory(redis: Redis) -> BrokerMemory:
    """Raises: BrokerError."""
    info: dict[str, Any] = await redis.info("memory")
    not_counted = int(info.get("mem_not_counted_for_evict", 0))  # buffers, which do not count as used
    return BrokerMemory(int(info["used_memory"]) - not_counted, int(info["maxmemory"]))


class MemoryWatch:
    """The memory of the broker as one process knows it; asks at most once in FRESH_S."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._memory = BrokerMemory(0, 0)
        self._read_at = 0.0  # monotonic

    async def is_nearly_full(self) -> bool:
        """By the last reading while another request waits for the answer; false while the broker is away."""
        now = time.monotonic()
        if now - self._read_at >= FRESH_S:
            self._read_at = now
            try:
                self._memory = await read_memory(self._redis)
            except BrokerError:
                self._memory = BrokerMemory(0, 0)
        return self._memory.is_nearly_full

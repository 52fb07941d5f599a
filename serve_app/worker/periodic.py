"""PeriodicTasks: what every worker does now and then beside its tasks, until it ends.

Where it is enough that one of all workers does a round, `acquire_lock` says which.
"""

import asyncio
import contextlib
import logging
from typing import Protocol

from redis.asyncio import Redis

from serve_app.errors import BrokerError, StoreError

log = logging.getLogger(__name__)


class PeriodicTask(Protocol):
    """What is done in rounds: one every `every_s` seconds."""

    @property
    def name(self) -> str: ...

    @property
    def every_s(self) -> float: ...

    async def run_once(self) -> None:
        """Raises: BrokerError; StoreError."""


class PeriodicTasks:
    """All the rounds of one worker. Belongs to one event loop."""

    def __init__(self) -> None:
        self._closing = asyncio.Event()

    async def run(self, task: PeriodicTask) -> None:
        """Round after round, until `close`; one that broker or store cut short is made up for by the next."""
        while not self._closing.is_set():
            try:
                await task.run_once()
            except (BrokerError, StoreError) as error:
                log.warning("a round of the %s was cut short: %s", task.name, error.__cause__)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), task.every_s)

    def close(self) -> None:
        """Begin no more of them. (To cancel `run` would not do: a call to Redis may swallow that.)"""
        self._closing.set()


async def acquire_lock(redis: Redis, key: str, every_s: float) -> bool:
    """Whether nobody took the round of this `key` in the last so many seconds; it is taken now. Raises: BrokerError."""
    # Never released: it is also what keeps the next round away for a while.
    return bool(await redis.set(key, 1, nx=True, px=round(every_s * 1000)))

"""Periodic tasks, which every worker runs until it shuts down; `acquire_lock` selects one worker for a run."""

import asyncio
import contextlib
import logging
from typing import Any, Protocol

from serve_app.backends.redis import ALLOW_OOM, Redis
from serve_app.errors import BrokerError, StoreError

# KEYS: lock; ARGV: its life (ms)
ACQUIRE = "return redis.call('SET', KEYS[1], 1, 'NX', 'PX', ARGV[1])"

log = logging.getLogger(__name__)


class PeriodicTask(Protocol):
    """Work that is done once every `every_s` seconds."""

    @property
    def name(self) -> str:
        """What logs call it."""

    @property
    def every_s(self) -> float:
        """Seconds from the end of a run to the next."""

    async def run_once(self) -> None:
        """Raises: BrokerError; StoreError."""


class PeriodicTasks:
    """The periodic tasks of one worker. Lives on one event loop."""

    def __init__(self) -> None:
        self._closing = asyncio.Event()

    async def run(self, task: PeriodicTask) -> None:
        """Run a task periodically until `close`. After a failure of broker or store, the next run makes up for it."""
        while not self._closing.is_set():
            try:
                await task.run_once()
            except (BrokerError, StoreError) as error:
                log.warning("the %s failed, and will run again: %s", task.name, error.__cause__)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), task.every_s)

    def close(self) -> None:
        """Start no more runs. (`run` is not cancelled, because a call to Redis may swallow the cancellation.)"""
        self._closing.set()


async def acquire_lock(redis: Redis, name: str, every_s: float) -> bool:
    """Take a distributed lock for `every_s` seconds; false while another worker has it. Raises: BrokerError."""
    # It is never released, so that it also spaces the runs.
    acquire: Any = redis.register_script(ALLOW_OOM + ACQUIRE)
    return bool(await acquire([redis.key(name)], [round(every_s * 1000)]))

"""Periodic tasks, which every worker runs until it shuts down; `acquire_lock` selects one worker for a run."""

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Protocol

from serve_app.backends.lua import Script
from serve_app.backends.redis import Redis
from serve_app.errors import BrokerError, StoreError

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
    acquire = Script(redis, Path(__file__).with_name("acquire_lock.lua"))
    return bool(await acquire(lock=redis.key(name), life_ms=round(every_s * 1000)))

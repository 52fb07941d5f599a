"""A task that reads from the broker for all who wait for what it reads, and only while there are any."""

import asyncio
from abc import ABC, abstractmethod


class SharedReader(ABC):
    """Lives on one event loop. `_read` ends when `_is_reading` is false: a call to Redis may swallow a cancellation."""

    def __init__(self) -> None:
        self._reader: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Stop the reader; the next who waits starts another."""
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _start(self) -> None:
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())

    @property
    def _is_reading(self) -> bool:
        """Asked by the reader: whether it is the current one."""
        return self._reader is asyncio.current_task()

    @abstractmethod
    async def _read(self) -> None: ...

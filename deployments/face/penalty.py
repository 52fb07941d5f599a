"""Throttling in the face stage: work of tenants that exceed their limits runs behind the work of all others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class DeprioritisedTurns:
    """Runs deprioritised work one at a time and only while no other work runs, but never delays it indefinitely.

    Belongs to one event loop.
    """

    def __init__(self, max_wait_s: float) -> None:
        """`max_wait_s`: the longest wait of the deprioritised call that is next."""
        self._max_wait_s = max_wait_s
        self._others = 0
        self._no_others = asyncio.Event()
        self._no_others.set()
        self._one_at_a_time = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, *, deprioritised: bool) -> AsyncIterator[None]:
        """The block is the work."""
        if deprioritised:
            async with self._one_at_a_time:  # other work that arrives now waits for one deprioritised call at most
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._max_wait_s):
                        while self._others:  # new work may have arrived before this task resumed
                            await self._no_others.wait()
                yield
            return
        self._others += 1
        self._no_others.clear()
        try:
            yield
        finally:
            self._others -= 1
            if not self._others:
                self._no_others.set()

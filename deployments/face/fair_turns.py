"""Turns in the face stage: work of tenants that used much more than others recently runs behind the others' work."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from deployments.common.fair_share import is_much_more, level_of


class FairTurns:
    """Work of tenants that used more than a second recently runs one call at a time, and only while no work of tenants
    that used much less runs; it never waits for ever.

    Belongs to one event loop.
    """

    def __init__(self, max_wait_s: float) -> None:
        """`max_wait_s`: the longest wait of the yielding call that is next."""
        self._max_wait_s = max_wait_s
        self._running: list[float] = []  # the recent usage of the tenant of each call, seconds
        self._ended = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, used_s: float) -> AsyncIterator[None]:
        """The block is the work of a tenant that used `used_s` seconds recently."""
        if level_of(used_s) == 0:
            with self._counted(used_s):
                yield
            return
        async with self._one_at_a_time:  # other work that arrives now waits for one such call at most
            await self._wait(used_s)
            with self._counted(used_s):
                yield

    @contextmanager
    def _counted(self, used_s: float) -> Iterator[None]:
        self._running.append(used_s)
        try:
            yield
        finally:
            self._running.remove(used_s)
            self._ended.set()

    def _must_yield(self, used_s: float) -> bool:
        return any(is_much_more(used_s, other_s) for other_s in self._running)

    async def _wait(self, used_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._max_wait_s):
                while self._must_yield(used_s):
                    self._ended.clear()
                    await self._ended.wait()

"""Who goes before whom: work of tenants who ask for more than they may stands back behind that of others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Courtesy:
    """Of one event loop. Who stands back goes one at a time, and only while no others are at work; but not for ever."""

    def __init__(self, patience_s: float) -> None:
        """`patience_s`: the longest wait of the next one that stands back."""
        self._patience_s = patience_s
        self._others = 0
        self._free = asyncio.Event()
        self._free.set()
        self._one = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, *, deprioritised: bool) -> AsyncIterator[None]:
        """The block is the work."""
        if deprioritised:
            async with self._one:  # who comes now finds one of them at work, at most
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._patience_s):
                        while self._others:  # another may have come before this one woke up
                            await self._free.wait()
                yield
            return
        self._others += 1
        self._free.clear()
        try:
            yield
        finally:
            self._others -= 1
            if not self._others:
                self._free.set()

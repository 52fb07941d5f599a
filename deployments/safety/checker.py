"""The protocol of safety checkers, and one that batches the images of concurrent callers."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from deployments.types import Pixels

MAX_BATCH = 8


class SafetyChecker(Protocol):
    """Decides which generated images are withheld."""

    def flags(self, pictures: Sequence[Pixels]) -> list[bool]:
        """For each picture (h, w, 3): whether it is withheld. Not thread-safe. Raises: DeviceLostError."""
        ...


class SharedChecker:
    """Pictures that arrive during a check share the next one. Belongs to one event loop."""

    def __init__(self, checker: SafetyChecker) -> None:
        self._checker = checker
        self._waiting: list[tuple[Pixels, asyncio.Future[bool]]] = []
        self._checking: asyncio.Task[None] | None = None

    async def flags(self, picture: Pixels) -> bool:
        """Whether it is withheld. Raises: what the checker raises for this picture."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((picture, answer))
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check())
        return await answer

    async def _check(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            found = await self._flags([picture for picture, _ in batch])
            for (_, answer), flag in zip(batch, found, strict=True):
                if answer.done():  # its caller was cancelled
                    continue
                if isinstance(flag, Exception):
                    answer.set_exception(flag)
                else:
                    answer.set_result(flag)

    async def _flags(self, pictures: Sequence[Pixels]) -> Sequence[bool | Exception]:
        try:
            return await asyncio.to_thread(self._checker.flags, pictures)
        except Exception as error:  # raised at the caller of the failing picture only
            if len(pictures) == 1:
                return [error]
            return [found for picture in pictures for found in await self._flags([picture])]

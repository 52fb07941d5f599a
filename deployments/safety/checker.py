"""What a safety checker is to the generator, and how many callers share one."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from deployments.types import Pixels

MAX_TOGETHER = 8


class SafetyChecker(Protocol):
    def flags(self, pictures: Sequence[Pixels]) -> list[bool]:
        """For each picture (h, w, 3): whether it is withheld. One thread at a time."""
        ...


class SharedChecker:
    """Pictures that come while others are looked at are then looked at together. Lives on one event loop."""

    def __init__(self, checker: SafetyChecker) -> None:
        self._checker = checker
        self._waiting: list[tuple[Pixels, asyncio.Future[bool]]] = []
        self._looking: asyncio.Task[None] | None = None

    async def flags(self, picture: Pixels) -> bool:
        """Whether it is withheld. Raises: what the checker raises at this picture."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((picture, answer))
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        return await answer

    async def _look(self) -> None:
        while self._waiting:
            next_ones, self._waiting = self._waiting[:MAX_TOGETHER], self._waiting[MAX_TOGETHER:]
            found = await self._found([picture for picture, _ in next_ones])
            for (_, answer), flag in zip(next_ones, found, strict=True):
                if answer.done():  # whoever asked has left
                    continue
                if isinstance(flag, Exception):
                    answer.set_exception(flag)
                else:
                    answer.set_result(flag)

    async def _found(self, pictures: Sequence[Pixels]) -> Sequence[bool | Exception]:
        try:
            return await asyncio.to_thread(self._checker.flags, pictures)
        except Exception as error:  # whatever it is belongs to those who wait, and to none but whose picture it is
            if len(pictures) == 1:
                return [error]
            return [found for picture in pictures for found in await self._found([picture])]

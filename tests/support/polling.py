"""To ask again and again until an answer is true."""

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


def poll(question: Callable[[], Any], timeout_s: float = 30, every_s: float = 0.1) -> Any:
    """Ask again and again until the answer is true; fails when `timeout_s` are over."""
    pause = threading.Event()
    for _ in range(int(timeout_s / every_s)):
        if answer := question():
            return answer
        pause.wait(every_s)
    raise AssertionError(f"not true within {timeout_s} s: {question}")


async def eventually(question: Callable[[], Awaitable[T | None]]) -> T:
    """Ask again and again until the answer is true; the scenario's own time-out ends that."""
    for _ in itertools.count():
        if answer := await question():
            return answer
        await asyncio.sleep(0.02)
    raise AssertionError("the count does not end")

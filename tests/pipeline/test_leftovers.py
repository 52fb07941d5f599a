import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from serve_app.pipeline import gc as leftovers
from serve_app.pipeline.gc import ReferenceCollector

FREED_S = 10


class Picture:
    """One that only a collection frees: it refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def no_other_collection(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(leftovers, "COLLECT_S", 0.01)
    gc.disable()
    yield
    gc.enable()


def left_behind() -> asyncio.Event:
    """Set when a picture that nobody else refers to is freed."""
    freed = asyncio.Event()
    weakref.finalize(Picture(), freed.set)
    return freed


def test_what_work_left_is_freed_soon_after_it_and_again_after_the_next() -> None:
    async def within() -> None:
        ours = ReferenceCollector()
        for _ in range(2):
            freed = left_behind()
            assert not freed.is_set()
            ours.collect_soon()
            await asyncio.wait_for(freed.wait(), FREED_S)

    asyncio.run(within())


def test_many_ends_at_once_are_one_collection() -> None:
    collections: list[str] = []
    gc.callbacks.append(lambda phase, _info: collections.append(phase))
    try:

        async def within() -> None:
            ours, freed = ReferenceCollector(), left_behind()
            for _ in range(100):
                ours.collect_soon()
            await asyncio.wait_for(freed.wait(), FREED_S)

        asyncio.run(within())
    finally:
        gc.callbacks.pop()
    assert collections.count("start") == 1

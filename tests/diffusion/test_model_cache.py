"""Which models are in memory, and when one is evicted for another."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable

import pytest

from deployments.diffusion.model_cache import ModelCache
from deployments.model_memory import ModelMemory
from tests.support.polling import eventually

SIZES = {"a": ModelMemory(4), "b": ModelMemory(4), "c": ModelMemory(6)}


class Disk:
    """Loads a model's name; waits while `gate` is closed, fails while `broken`."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.broken = False

    def load(self, name: str) -> str:
        self.loads.append(name)
        assert self.gate.wait(60)
        if self.broken:
            raise OSError("no such file")
        return name.upper()


def at(scenario: Callable[[Disk], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            await scenario(Disk())

    asyncio.run(within())


def test_a_model_is_loaded_once_for_all_who_ask() -> None:
    async def scenario(disk: Disk) -> None:
        cache = ModelCache(disk.load, SIZES, budget_gb=8)

        async def use() -> str:
            async with cache.lease("a") as model:
                return model

        assert await asyncio.gather(*(use() for _ in range(5))) == ["A"] * 5
        assert disk.loads == ["a"]
        assert (cache.loaded, [*cache.loads_s]) == (["a"], ["a"])
        assert cache.loaded == ["a"]

    at(scenario)


def test_a_load_of_a_model_that_was_never_loaded_is_expected_by_its_weights() -> None:
    async def scenario(disk: Disk) -> None:
        sizes = {"a": ModelMemory(4.0, 9.0), "b": ModelMemory(8.0)}
        cache = ModelCache(disk.load, sizes, budget_gb=21)
        assert cache.expected_loads_s() == {}
        disk.gate.clear()
        loading = asyncio.create_task(cache.preload("a"))
        await eventually(lambda: asyncio.sleep(0, bool(disk.loads)))
        assert (cache.coming, cache.loaded) == (["a"], [])
        disk.gate.set()
        await loading
        assert (cache.coming, cache.loaded) == ([], ["a"])
        expected_s = cache.expected_loads_s()
        assert expected_s["a"] == cache.loads_s["a"] > 0
        assert expected_s["b"] == pytest.approx(2 * expected_s["a"])

    at(scenario)


def test_the_one_unused_for_longest_makes_room() -> None:
    async def scenario(disk: Disk) -> None:
        cache = ModelCache(disk.load, SIZES, budget_gb=10)
        for name in ("a", "b", "a", "c"):
            async with cache.lease(name):
                pass
        assert cache.loaded == ["a", "c"]

    at(scenario)


def test_a_model_that_is_in_use_is_never_put_out() -> None:
    async def scenario(disk: Disk) -> None:
        cache = ModelCache(disk.load, SIZES, budget_gb=8)
        async with cache.lease("a"), cache.lease("b"):
            waiting = asyncio.create_task(_use(cache, "c"))
            await asyncio.sleep(0.05)
            assert disk.loads == ["a", "b"]
            assert not waiting.done()
        assert await waiting == "C"
        assert cache.loaded == ["c"]

    at(scenario)


async def _use(cache: ModelCache[str], name: str) -> str:
    async with cache.lease(name) as model:
        return model


def test_while_one_model_loads_another_is_used() -> None:
    async def scenario(disk: Disk) -> None:
        cache = ModelCache(disk.load, SIZES, budget_gb=8)
        assert await _use(cache, "a") == "A"
        disk.gate.clear()
        loading = asyncio.create_task(_use(cache, "b"))
        await asyncio.sleep(0.05)
        assert await _use(cache, "a") == "A"
        disk.gate.set()
        assert await loading == "B"

    at(scenario)


def test_whoever_gives_up_waiting_stops_no_load_for_the_others() -> None:
    async def scenario(disk: Disk) -> None:
        cache = ModelCache(disk.load, SIZES)
        disk.gate.clear()
        impatient, patient = asyncio.create_task(_use(cache, "a")), asyncio.create_task(_use(cache, "a"))
        await asyncio.sleep(0.05)
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
        disk.gate.set()
        assert await patient == "A"
        assert disk.loads == ["a"]

    at(scenario)


def test_a_load_that_failed_is_tried_again_by_the_next() -> None:
    async def scenario(disk: Disk) -> None:
        cache = ModelCache(disk.load, SIZES)
        disk.broken = True
        with pytest.raises(OSError, match="no such file"):
            await _use(cache, "a")
        disk.broken = False
        assert await _use(cache, "a") == "A"

    at(scenario)


def test_one_who_asks_again_at_once_shares_the_new_load_with_all_later_ones() -> None:
    async def scenario(disk: Disk) -> None:
        cache = ModelCache(disk.load, SIZES)
        disk.broken = True

        async def use_twice() -> str:
            with pytest.raises(OSError, match="no such file"):
                await _use(cache, "a")
            disk.broken = False
            return await _use(cache, "a")

        again = asyncio.create_task(use_twice())
        await asyncio.sleep(0)  # it is the first to learn of the failure
        with pytest.raises(OSError, match="no such file"):
            await _use(cache, "a")  # of the load that failed, and ends after the new one has begun
        assert [await again, await _use(cache, "a")] == ["A", "A"]
        assert disk.loads == ["a", "a"]

    at(scenario)


def test_a_load_that_failed_after_all_gave_up_is_no_error_of_the_next() -> None:
    async def scenario(disk: Disk) -> None:
        cache = ModelCache(disk.load, SIZES)
        disk.broken = True
        disk.gate.clear()
        await _given_up(cache, "a")
        (entry,) = cache._entries.values()
        disk.gate.set()
        await asyncio.wait([entry.loading])
        disk.broken = False
        assert await _use(cache, "a") == "A"

    at(scenario)


async def _given_up(cache: ModelCache[str], name: str) -> None:
    leaving = asyncio.create_task(_use(cache, name))
    await asyncio.sleep(0)  # it has begun
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)


def test_a_model_that_still_loads_makes_no_room_though_all_gave_up() -> None:
    async def scenario(disk: Disk) -> None:
        cache = ModelCache(disk.load, SIZES, budget_gb=8)
        disk.gate.clear()
        await _given_up(cache, "c")
        other = asyncio.create_task(_use(cache, "a"))
        await asyncio.sleep(0)
        assert not cache._evict_for("a")
        disk.gate.set()
        assert await other == "A"
        assert disk.loads == ["c", "a"]
        assert cache.loaded == ["a"]

    at(scenario)


def test_a_model_that_must_wait_for_a_leased_one_puts_no_other_out() -> None:
    async def scenario(disk: Disk) -> None:
        cache = ModelCache(disk.load, SIZES, budget_gb=8)
        assert await _use(cache, "b") == "B"
        async with cache.lease("a"):
            waiting = asyncio.create_task(_use(cache, "c"))
            await asyncio.sleep(0)
            assert await _use(cache, "b") == "B"
            assert disk.loads == ["b", "a"]
        assert await waiting == "C"

    at(scenario)


def test_a_model_that_can_never_fit_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="model c takes 6 GB"):
        ModelCache(Disk().load, SIZES, budget_gb=5)


def test_the_first_ones_that_fit_are_there_from_the_start() -> None:
    assert ModelCache(Disk().load, SIZES, budget_gb=9).fitting() == ["a", "b"]
    assert ModelCache(Disk().load, SIZES).fitting() == ["a", "b", "c"]
    assert ModelCache(Disk().load, {name: SIZES[name] for name in "acb"}, budget_gb=8).fitting() == ["a", "b"]


def test_models_share_the_memory_of_their_steps() -> None:
    async def scenario(disk: Disk) -> None:
        sizes = {"a": ModelMemory(4, 2), "b": ModelMemory(3, 5), "c": ModelMemory(4)}
        cache = ModelCache(disk.load, sizes, budget_gb=12)
        assert cache.fitting() == ["a", "b"]  # 7 of weights, and 5 for the steps of either
        for name in ("a", "b", "a", "c"):
            assert await _use(cache, name) == name.upper()
        assert (disk.loads, cache.loaded) == (["a", "b", "c"], ["a", "c"])

    at(scenario)


def test_what_is_loaded_ahead_makes_nobody_leave() -> None:
    async def scenario(disk: Disk) -> None:
        cache = ModelCache(disk.load, SIZES, budget_gb=8)
        assert await _use(cache, "a") == "A"
        for name in ("a", "c", "b"):
            await cache.preload(name)
        assert (disk.loads, cache.loaded) == (["a", "b"], ["a", "b"])
        disk.broken = True
        with pytest.raises(OSError, match="no such file"):
            await ModelCache(disk.load, SIZES).preload("c")

    at(scenario)


class Cyclic:
    """As a compiled model: only the garbage collector frees it."""

    def __init__(self, _name: str) -> None:
        self.itself = self


def test_an_evicted_model_is_freed_before_the_next_is_loaded() -> None:
    alive: list[bool] = []
    evicted: list[weakref.ref[Cyclic]] = []

    def load(name: str) -> Cyclic:
        alive.extend(reference() is not None for reference in evicted)
        return Cyclic(name)

    async def scenario() -> None:
        cache = ModelCache(load, SIZES, budget_gb=6)
        async with cache.lease("a") as model:
            evicted.append(weakref.ref(model))
        del model
        gc.disable()
        try:
            async with cache.lease("b"):
                assert alive == [False]
        finally:
            gc.enable()

    asyncio.run(scenario())

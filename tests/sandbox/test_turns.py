"""Which picture gets the next free process. No process runs: decisions alone."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.errors import RateLimitError
from serve_app.sandbox.turns import ProcessTurns, Turn

MANY_S = 10_000.0


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def use(turns: ProcessTurns, owner: str, seconds: float) -> None:
    turns.release(await turns.acquire(owner), seconds)


def test_a_picture_of_an_owner_that_used_little_passes_those_that_wait_already() -> None:
    async def scenario() -> None:
        turns, order = ProcessTurns(1, MANY_S), []
        await use(turns, "slow", 5.0)

        async def ask(owner: str) -> None:
            turn = await turns.acquire(owner)
            order.append(owner)
            turns.release(turn, 5.0 if owner == "slow" else 0.01)

        busy = await turns.acquire("slow")
        asked = [asyncio.create_task(ask(owner)) for owner in ("slow", "slow", "slow", "usual", "usual")]
        await ticks(3)
        turns.release(busy, 5.0)
        await asyncio.gather(*asked)
        assert order == ["usual", "usual", "slow", "slow", "slow"]

    asyncio.run(scenario())


@pytest.mark.parametrize(("processes", "at_once"), [(1, 1), (2, 1), (3, 2)])
def test_large_pictures_leave_one_process_to_the_others(processes: int, at_once: int) -> None:
    async def scenario() -> None:
        turns = ProcessTurns(processes, MANY_S)
        held = [asyncio.create_task(turns.acquire(f"owner {number}", large=True)) for number in range(3)]
        await ticks(3)
        assert sum(task.done() for task in held) == at_once
        if processes > 1:
            turns.release(await asyncio.wait_for(turns.acquire("usual"), 5), 0.01)
        for task in held:
            turns.release(await task, 0.01)

    asyncio.run(scenario())


def test_owners_of_slow_pictures_leave_one_process_to_the_others() -> None:
    async def scenario() -> None:
        turns = ProcessTurns(3, MANY_S)
        for owner in ("ann", "bob"):
            await use(turns, owner, 5.0)
        held = [asyncio.create_task(turns.acquire(owner)) for owner in ("ann", "bob", "ann", "bob")]
        await ticks(3)
        assert sum(task.done() for task in held) == 2
        usual = await asyncio.wait_for(turns.acquire("usual"), 5)
        turns.release(usual, 0.01)
        await ticks(3)
        assert sum(task.done() for task in held) == 2
        turns.release(held[0].result(), 0.5)
        await ticks(3)
        assert sum(task.done() for task in held) == 3
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)

    asyncio.run(scenario())


def test_what_one_owner_may_use_is_bounded_and_others_go_on() -> None:
    async def scenario() -> None:
        turns = ProcessTurns(2, owner_seconds=4.0)
        await use(turns, "slow", 8.0)
        with pytest.raises(RateLimitError) as refused:
            await turns.acquire("slow")
        assert 25 <= refused.value.retry_after_s <= 31  # half of it is forgotten in 30 s
        await use(turns, "usual", 0.1)

    asyncio.run(scenario())


events = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", "cid"]), st.integers(0, 4), st.booleans(), st.floats(0, 3)), max_size=25
)
"""Owner, pause before it comes, whether its request ends early, and how long its picture takes."""


@given(st.integers(1, 3), events)
@settings(deadline=None)
def test_every_process_is_free_again_whatever_order_requests_come_and_leave_in(
    processes: int, requests: list[tuple[str, int, bool, float]]
) -> None:
    async def scenario() -> None:
        turns, held = ProcessTurns(processes, MANY_S), Counter[bool]()

        async def ask(owner: str, pause: int, _leaves: bool, seconds: float) -> None:
            await ticks(pause)
            turn = await turns.acquire(owner)
            held[turn.heavy] += 1
            try:
                assert held.total() <= processes
                assert held[True] <= max(1, processes - 1)
                await ticks(2)
            finally:
                held[turn.heavy] -= 1
                turns.release(turn, seconds)

        asked = [asyncio.create_task(ask(*request)) for request in requests]
        await ticks(4)
        for task, (_owner, _pause, leaves, _seconds) in zip(asked, requests, strict=True):
            if leaves:
                task.cancel()
        async with asyncio.timeout(30):
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert not [result for result in results if isinstance(result, AssertionError)]
            for owner in map(str, range(processes)):  # owners that used nothing
                assert isinstance(await turns.acquire(owner), Turn)

    asyncio.run(scenario())

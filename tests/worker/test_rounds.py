"""PeriodicTasks of a worker, with periodic that count them. Redis is real."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_app.backends.redis import BrokerSettings, connect
from serve_app.errors import BrokerError, StoreError
from serve_app.worker.periodic import PeriodicTasks, acquire_lock
from tests.support.polling import eventually


class Counted:
    """A chore that does `then` at the end of each round."""

    name = "count"
    every_s = 0.01

    def __init__(self, then: Callable[[int], None]) -> None:
        self.rounds = 0
        self._then = then

    async def run_once(self) -> None:
        self.rounds += 1
        self._then(self.rounds)


def rounds_of(then: Callable[[PeriodicTasks, int], None], every_s: float = 0.01) -> int:
    """How many rounds a chore makes until one closes them."""

    async def scenario() -> int:
        rounds = PeriodicTasks()
        chore = Counted(lambda count: then(rounds, count))
        chore.every_s = every_s
        async with asyncio.timeout(30):
            await rounds.run(chore)
        return chore.rounds

    return asyncio.run(scenario())


def test_rounds_go_on_until_they_are_closed() -> None:
    assert rounds_of(lambda rounds, count: rounds.close() if count == 3 else None) == 3


def test_closing_does_not_wait_for_the_next_round() -> None:
    assert rounds_of(lambda rounds, count: rounds.close(), every_s=3600) == 1


@pytest.mark.parametrize("error", [BrokerError("away"), StoreError("away")])
def test_a_round_that_is_cut_short_is_not_the_last(error: Exception) -> None:
    def fails_at_first(rounds: PeriodicTasks, count: int) -> None:
        if count == 3:
            rounds.close()
        raise error

    assert rounds_of(fails_at_first) == 3


def test_a_bug_ends_the_rounds_for_the_health_check_to_see() -> None:
    def bug(rounds: PeriodicTasks, count: int) -> None:
        raise KeyError(count)

    with pytest.raises(KeyError):
        rounds_of(bug)


def test_one_of_two_workers_has_the_turn_until_it_is_over(valkey: Path) -> None:
    async def scenario() -> tuple[bool, bool]:
        async with connect(BrokerSettings(), valkey) as one, connect(BrokerSettings(), valkey) as other:
            first = await acquire_lock(one, "turn:long", 3600)
            return first, await acquire_lock(other, "turn:long", 3600)

    assert asyncio.run(scenario()) == (True, False)


def test_the_turn_comes_again_after_a_while(valkey: Path) -> None:
    async def scenario() -> None:
        async with connect(BrokerSettings(), valkey) as redis, asyncio.timeout(30):
            assert await acquire_lock(redis, "turn:short", 0.05)
            await eventually(lambda: acquire_lock(redis, "turn:short", 0.05))

    asyncio.run(scenario())

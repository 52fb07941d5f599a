"""The order in which work of tenants that used much recently, and of others, begins."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.face.fair_turns import FairTurns

LONG_S = 30.0
MUCH_S = 100.0

calls = st.lists(st.tuples(st.booleans(), st.integers(0, 12), st.integers(1, 4)), max_size=12)
"""Whether each is heavy, and for how many turns of the event loop it pauses before it comes, and works."""


class Work:
    """Runs work behind a gate, and records what was under way when each piece began."""

    def __init__(self, gate: FairTurns) -> None:
        self.gate = gate
        self.under_way: list[bool] = []  # whether each is heavy
        self.begun: list[tuple[bool, list[bool]]] = []

    async def call(self, heavy: bool, pause: int, turns: int) -> None:
        await ticks(pause)
        async with self.gate.turn(MUCH_S * heavy):
            self.begun.append((heavy, self.under_way.copy()))
            self.under_way.append(heavy)
            await ticks(turns)
            self.under_way.remove(heavy)


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@given(calls)
@settings(deadline=None)
def test_work_of_heavy_tenants_begins_alone_and_all_come_to_their_turn(arrivals: list[tuple[bool, int, int]]) -> None:
    async def scenario() -> list[tuple[bool, list[bool]]]:
        work = Work(FairTurns(LONG_S))
        async with asyncio.timeout(LONG_S):
            await asyncio.gather(*(work.call(*each) for each in arrivals))
        return work.begun

    begun = asyncio.run(scenario())
    assert len(begun) == len(arrivals)
    for heavy, under_way in begun:
        assert not (heavy and under_way)
        assert under_way.count(True) <= 1


def test_others_never_wait() -> None:
    async def scenario() -> None:
        gate, release = FairTurns(LONG_S), asyncio.Event()

        async def hold(heavy: bool) -> None:
            async with gate.turn(MUCH_S * heavy):
                await release.wait()

        holding = [asyncio.create_task(hold(heavy)) for heavy in (True, True, False)]
        await ticks(5)
        async with asyncio.timeout(LONG_S), gate.turn(0.0):
            release.set()
        await asyncio.gather(*holding)

    asyncio.run(scenario())


def test_work_of_heavy_tenants_does_not_wait_for_ever() -> None:
    async def scenario() -> None:
        gate = FairTurns(max_wait_s=0.01)
        async with asyncio.timeout(LONG_S), gate.turn(0.0):
            for _ in range(2):
                async with gate.turn(MUCH_S):
                    pass

    asyncio.run(scenario())


def test_who_leaves_while_it_waits_holds_nobody_up() -> None:
    async def scenario() -> None:
        gate = FairTurns(LONG_S)

        async def wait() -> None:
            async with gate.turn(MUCH_S):
                raise AssertionError("others are at work")

        async with gate.turn(0.0):
            waiting = [asyncio.create_task(wait()) for _ in range(2)]
            await ticks(3)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert all(task.cancelled() for task in waiting)
        async with asyncio.timeout(LONG_S), gate.turn(MUCH_S):
            pass

    asyncio.run(scenario())

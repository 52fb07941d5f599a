"""The order in which deprioritised and other work begins."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.face.penalty import DeprioritisedTurns

LONG_S = 30.0

calls = st.lists(st.tuples(st.booleans(), st.integers(0, 12), st.integers(1, 4)), max_size=12)
"""Whether each is deprioritised, and for how many turns of the event loop it pauses before it comes, and works."""


class Work:
    """Runs work behind a gate, and records what was under way when each piece began."""

    def __init__(self, gate: DeprioritisedTurns) -> None:
        self.gate = gate
        self.under_way: list[bool] = []  # whether each is deprioritised
        self.begun: list[tuple[bool, list[bool]]] = []

    async def call(self, deprioritised: bool, pause: int, turns: int) -> None:
        await ticks(pause)
        async with self.gate.turn(deprioritised=deprioritised):
            self.begun.append((deprioritised, self.under_way.copy()))
            self.under_way.append(deprioritised)
            await ticks(turns)
            self.under_way.remove(deprioritised)


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@given(calls)
@settings(deadline=None)
def test_deprioritised_work_begins_alone_and_all_come_to_their_turn(arrivals: list[tuple[bool, int, int]]) -> None:
    async def scenario() -> list[tuple[bool, list[bool]]]:
        work = Work(DeprioritisedTurns(LONG_S))
        async with asyncio.timeout(LONG_S):
            await asyncio.gather(*(work.call(*each) for each in arrivals))
        return work.begun

    begun = asyncio.run(scenario())
    assert len(begun) == len(arrivals)
    for deprioritised, under_way in begun:
        assert not (deprioritised and under_way)
        assert under_way.count(True) <= 1


def test_others_never_wait() -> None:
    async def scenario() -> None:
        gate, release = DeprioritisedTurns(LONG_S), asyncio.Event()

        async def hold(deprioritised: bool) -> None:
            async with gate.turn(deprioritised=deprioritised):
                await release.wait()

        holding = [asyncio.create_task(hold(deprioritised)) for deprioritised in (True, True, False)]
        await ticks(5)
        async with asyncio.timeout(LONG_S), gate.turn(deprioritised=False):
            release.set()
        await asyncio.gather(*holding)

    asyncio.run(scenario())


def test_deprioritised_work_does_not_wait_for_ever() -> None:
    async def scenario() -> None:
        gate = DeprioritisedTurns(max_wait_s=0.01)
        async with asyncio.timeout(LONG_S), gate.turn(deprioritised=False):
            for _ in range(2):
                async with gate.turn(deprioritised=True):
                    pass

    asyncio.run(scenario())


def test_who_leaves_while_it_waits_holds_nobody_up() -> None:
    async def scenario() -> None:
        gate = DeprioritisedTurns(LONG_S)

        async def wait() -> None:
            async with gate.turn(deprioritised=True):
                raise AssertionError("others are at work")

        async with gate.turn(deprioritised=False):
            waiting = [asyncio.create_task(wait()) for _ in range(2)]
            await ticks(3)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert all(task.cancelled() for task in waiting)
        async with asyncio.timeout(LONG_S), gate.turn(deprioritised=True):
            pass

    asyncio.run(scenario())

"""Processes that add and feed a batch die at any call to the broker or the store, and others go on."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from serve_app.api.chunk import json_lines
from serve_app.backends.lua import Script
from serve_app.backends.object_store import Results
from serve_app.batches.models import BatchState
from serve_app.batches.requests import BatchRequest, parsed_chunk
from serve_app.batches.service import BatchService
from serve_app.generation.validation import Caller
from tests.support.batches import Press, lines
from tests.support.ingresses import Ingress, scenario_runner

NAMES = "abcdefgh"
MOST_CALLS = 40  # of one round


class KilledError(BaseException):
    """The process is dead: whatever it still calls does nothing."""


@dataclass(frozen=True)
class Round:
    """A chunk is added, the batch is fed, some tasks are drawn; the process dies before or after a call."""

    first: int
    names: int
    call: int
    happens: bool  # the call at which it dies
    drawn: int

    @property
    def chunk(self) -> str:
        return "".join(itertools.islice(itertools.cycle(NAMES), self.first, self.first + self.names))


ROUNDS = st.builds(
    Round,
    first=st.integers(0, len(NAMES) - 1),
    names=st.integers(1, 4),
    call=st.integers(1, MOST_CALLS),
    happens=st.booleans(),
    drawn=st.integers(0, 3),
)


class Executioner:
    """Counts calls to the broker's scripts and to the store, and ends the process at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left = 0
        self._happens = False
        self._armed = False
        for kind, name in ((Script, "__call__"), (Results, "put"), (Results, "get"), (Results, "delete")):
            monkeypatch.setattr(kind, name, self._deadly(getattr(kind, name)))

    def arm(self, call: int, *, happens: bool) -> None:
        self._armed, self._left, self._happens = True, call, happens

    def disarm(self) -> None:
        self._armed = False

    def _deadly(self, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any, **named: Any) -> Any:
            if not self._armed:
                return await method(*arguments, **named)
            self._left -= 1
            if self._left < 0 or (self._left == 0 and not self._happens):
                raise KilledError
            answer = await method(*arguments, **named)
            if self._left == 0:
                raise KilledError
            return answer

        return call


def test_each_request_is_drawn_once_whatever_dies_between_two_calls(
    valkey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, executioner = scenario_runner(valkey, tmp_path, monkeypatch), Executioner(monkeypatch)

    @settings(
        max_examples=10,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],  # an example takes too long to be shrunk
        suppress_health_check=list(HealthCheck),
    )
    @given(rounds=st.lists(ROUNDS, min_size=1, max_size=4))
    def check(rounds: list[Round]) -> None:
        async def scenario(make: Callable[..., Ingress]) -> None:
            press = Press(make("picture", batches={"queued_at_once": 3}), tmp_path)
            await play(press, executioner, rounds)

        runner(scenario)

    check()


async def play(press: Press, executioner: Executioner, rounds: list[Round]) -> None:
    service = press.ingress.service
    assert press.own.token is not None
    caller = Caller(press.own.token.owner, token=press.own.token)
    batch_id = (await BatchService(service).open(BatchRequest(), caller)).batch_id

    async def add(names: str) -> None:
        batches = BatchService(service)
        record = await batches.find(batch_id, caller.owner)
        await batches.add(record, parsed_chunk(json_lines(lines(dict.fromkeys(names))), {}), caller)

    for each in rounds:
        executioner.arm(each.call, happens=each.happens)
        try:
            await add(each.chunk)
            await press.new_feeder().run_once()
        except KilledError:
            pass
        finally:
            executioner.disarm()
        await press.draw(each.drawn)
    await add(NAMES)
    await BatchService(service).close(await BatchService(service).find(batch_id, caller.owner))
    await press.run()
    assert press.drawn == dict.fromkeys(NAMES, 1)
    record = await BatchService(service).find(batch_id, caller.owner)
    assert (record.state, record.total, record.succeeded) == (BatchState.FINISHED, len(NAMES), len(NAMES))
    ended = await press.store.ended(batch_id, 0, 100)
    assert sorted(each.item.custom_id for each in ended) == [*NAMES]
    await check_files(press)


async def check_files(press: Press) -> None:
    """Chunks that were cut off left files, which go when their reservation is over."""
    await press.ingress.redis.delete(press.ingress.redis.key("batches", "reserved"))
    await press.sweep(press.files())
    assert press.files() == []

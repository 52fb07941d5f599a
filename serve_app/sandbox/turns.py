"""Turns at a few sandboxed processes, so that slow pictures of some owners do not make all others wait."""

import asyncio
import itertools
import math
import time
from typing import NamedTuple, Protocol

from deployments.common.fair_share import HALF_LIFE_S, FairShare, level_of
from serve_app.errors import RateLimitError


class Use(Protocol):
    """What owners used recently, for all stages."""

    def used_s(self, owner: str) -> float:
        """Seconds of work that an owner used recently, half forgotten every HALF_LIFE_S."""

    def charge(self, owner: str, seconds: float) -> None:
        """Add seconds of work to an owner, without blocking; `""` is nobody and not charged."""


class ProcessTurns:
    """Grants `processes` to pictures that wait. Belongs to one event loop.

    Pictures of owners that used less recently go first. Large pictures, and owners that used more than a second of
    these processes recently, leave one of them to the others, and what one owner may use is bounded.
    """

    def __init__(self, processes: int, owner_seconds: float, use: Use | None = None) -> None:
        """`owner_seconds`: the most that one owner used recently, see `FairShare`. `use` is charged and obeyed."""
        self.processes = processes
        self._owner_seconds = owner_seconds
        self._use = use
        self._used = FairShare()  # seconds of these processes alone
        self._free = processes
        self._heavy = 0  # processes that work on large pictures, or for owners who used more than a second
        self._order = itertools.count()
        self._waiting: dict[asyncio.Future[bool], _Waiting] = {}

    async def acquire(self, owner: str, *, large: bool = False) -> "Turn":
        """A process for a picture of an owner, until the turn ends. Raises: RateLimitError."""
        self._check(owner)
        granted = asyncio.get_running_loop().create_future()
        self._waiting[granted] = _Waiting(owner, next(self._order), large)
        self._grant()
        try:
            return Turn(self, owner, heavy=await granted)
        except asyncio.CancelledError:
            self._waiting.pop(granted, None)
            if granted.done() and not granted.cancelled():  # granted just before its request ended
                self._give_back(heavy=granted.result())
            raise

    def release(self, turn: "Turn", seconds: float) -> None:
        """Charge the owner of a turn `seconds`, and grant its process to the next."""
        self._used.charge([(turn.owner, seconds)], time.time())
        if self._use is not None:
            self._use.charge(turn.owner, seconds)
        self._give_back(heavy=turn.heavy)

    def _give_back(self, *, heavy: bool) -> None:
        self._free += 1
        self._heavy -= heavy
        self._grant()

    def _check(self, owner: str) -> None:
        used_s = self._used.used_s(owner, time.time())
        if owner and used_s > self._owner_seconds:
            wait_s = math.ceil(HALF_LIFE_S * math.log2(used_s / self._owner_seconds))
            raise RateLimitError("Your pictures took so long to decode that the next ones have to wait.", wait_s)

    def _grant(self) -> None:
        """Give free processes to those that wait."""
        for granted in sorted(self._waiting, key=self._rank):
            if not self._free:
                return
            if granted.done():  # its request has just ended
                continue
            waiting = self._waiting[granted]
            heavy = waiting.large or level_of(self._used.used_s(waiting.owner, time.time())) > 0
            if heavy and self._heavy >= max(1, self.processes - 1):
                continue
            self._free -= 1
            self._heavy += heavy
            del self._waiting[granted]
            granted.set_result(heavy)

    def _rank(self, granted: "asyncio.Future[bool]") -> tuple[int, int]:
        owner = self._waiting[granted].owner
        used_s = self._used.used_s(owner, time.time()) if self._use is None else self._use.used_s(owner)
        return level_of(used_s), self._waiting[granted].order


class _Waiting(NamedTuple):
    """A picture that waits for its turn; `order` is that of arrival."""

    owner: str
    order: int
    large: bool


class Turn:
    """One process for one picture."""

    def __init__(self, turns: ProcessTurns, owner: str, *, heavy: bool) -> None:
        self.owner = owner
        self.heavy = heavy
        self._turns = turns
        self._began = time.monotonic()

    def end(self) -> None:
        """Charge the owner the seconds since the turn was granted, and free its process; call it once."""
        self._turns.release(self, time.monotonic() - self._began)

"""The memory for request bodies: how many bytes one ingress replica holds at once, and of them one owner.

Bytes count from their arrival, not from their announcement, so a client that announces much and sends nothing takes
nothing from others. They count until the photo in them is decoded, or the request has ended.
"""

from collections import Counter
from collections.abc import Callable
from typing import NoReturn

from serve_app.errors import OverloadedError, RateLimitError
from serve_app.generation.settings import AdmissionSettings

MAX_OPEN_BODIES = 128  # on their way in at once; far below the replica's max_ongoing_requests


class BodyBudget:
    """The budget of one ingress replica: `max_body_bytes_at_once` for all, `owner_body_share` of it for one owner."""

    def __init__(self, settings: AdmissionSettings, charge_refusal: Callable[[str], None]) -> None:
        """`charge_refusal` is told the owner of each request that is refused because of what its owner holds."""
        self._max_bytes = settings.max_body_bytes_at_once
        self._share = settings.owner_body_share
        self._retry_after_s = settings.retry_after_s
        self._charge_refusal = charge_refusal
        self._bytes: Counter[str] = Counter()  # by owner
        self._open: Counter[str] = Counter()

    @property
    def held_bytes(self) -> int:
        """Bytes charged now, of all owners."""
        return self._bytes.total()

    def open(self, owner: str) -> "BodyCharge":
        """The account of a body that is about to be read. Raises: RateLimitError; OverloadedError."""
        if self._open[owner] + 1 > max(1, self._share * MAX_OPEN_BODIES):
            self._refuse(owner, "Too many requests of this token are on their way in.")
        if (number := self._open.total()) >= MAX_OPEN_BODIES:
            raise OverloadedError(f"{number} requests are on their way in already.", self._retry_after_s)
        self._open[owner] += 1
        return BodyCharge(self, owner)

    def check_room(self, owner: str, size: int) -> None:
        """Raises: RateLimitError where so many bytes more are beyond the owner's share; OverloadedError."""
        if self._bytes[owner] + size > self._share * self._max_bytes:
            self._refuse(owner, "The requests of this token that came in hold too many bytes.")
        if self.held_bytes + size > self._max_bytes:
            raise OverloadedError("The requests that came in hold too many bytes.", self._retry_after_s)

    def _refuse(self, owner: str, message: str) -> NoReturn:
        self._charge_refusal(owner)
        raise RateLimitError(message, self._retry_after_s)

    def _add(self, owner: str, size: int) -> None:
        self._bytes[owner] += size
        if not self._bytes[owner]:
            del self._bytes[owner]

    def _close_one(self, owner: str) -> None:
        self._open[owner] -= 1
        if not self._open[owner]:
            del self._open[owner]


class BodyCharge:
    """What one body takes of the budget."""

    def __init__(self, budget: BodyBudget, owner: str) -> None:
        self._budget = budget
        self._owner = owner
        self._size = 0
        self._on_its_way = True

    def announce(self, size: int) -> None:
        """Refuse a body early for which there is no room now. Raises: RateLimitError; OverloadedError."""
        self._budget.check_room(self._owner, size)

    def add(self, size: int) -> None:
        """Bytes arrived. Raises: RateLimitError; OverloadedError."""
        self._budget.check_room(self._owner, size)
        self._budget._add(self._owner, size)
        self._size += size

    def arrived(self) -> None:
        """The body is read to its end, or given up."""
        if self._on_its_way:
            self._on_its_way = False
            self._budget._close_one(self._owner)

    def keep(self, size: int) -> None:
        """Give back all but `size` bytes."""
        kept = min(size, self._size)
        self._budget._add(self._owner, kept - self._size)
        self._size = kept

    def give_back(self, size: int) -> None:
        """Give back `size` bytes."""
        self.keep(max(0, self._size - size))

    def close(self) -> None:
        """Give everything back; may be repeated."""
        self.arrived()
        self.keep(0)

"""A circuit breaker: after a failure, Redis is not called for a moment, so that not every request waits for it."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serve_app.errors import BrokerError, BrokerFullError

OPEN_S = 5

T = TypeVar("T")
log = logging.getLogger(__name__)


class CircuitBreaker:
    """The state of one process, for everything in it that can do without Redis for a while."""

    def __init__(self) -> None:
        self._open_until = 0.0  # by the monotonic clock, as the next ones
        self._silent_until: dict[str, float] = {}  # by consequence
        self._error = BrokerError("")  # the last one

    @property
    def is_open(self) -> bool:
        """Whether calls are skipped: for OPEN_S after the last `open`."""
        return time.monotonic() < self._open_until

    def open(self, error: BrokerError, consequence: str) -> None:
        """Open after a failed call. Logs each `consequence` once, not for each request."""
        self._error, self._open_until = error, time.monotonic() + OPEN_S
        self._log(error, consequence)

    async def call(self, function: Callable[[], Awaitable[T]], default: T, consequence: str) -> T:
        """The result of `function`, or `default` while the breaker is open or the call raises BrokerError."""
        if self.is_open:
            self._log(self._error, consequence)
            return default
        try:
            return await function()
        except BrokerFullError as error:  # it answered at once, and reads still work
            self._log(error, consequence)
        except BrokerError as error:
            self.open(error, consequence)
        return default

    def _log(self, error: BrokerError, consequence: str) -> None:
        now = time.monotonic()
        if now >= self._silent_until.get(consequence, 0.0):
            log.warning("the broker fails, %s: %s", consequence, error.__cause__)
        self._silent_until[consequence] = now + OPEN_S

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
    """The state of one process."""

    def __init__(self) -> None:
        self._open_until = 0.0  # by the monotonic clock, as the next one
        self._silent_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether calls are skipped: for OPEN_S after the last `open`."""
        return time.monotonic() < self._open_until

    def open(self, error: BrokerError, consequence: str) -> None:
        """Open after a failed call. Logs `consequence` once, not for each request."""
        self._log(error, consequence)
        self._open_until = time.monotonic() + OPEN_S

    async def call(self, function: Callable[[], Awaitable[T]], default: T, consequence: str) -> T:
        """The result of `function`, or `default` while the breaker is open or the call raises BrokerError."""
        if not self.is_open:
            try:
                return await function()
            except BrokerFullError as error:  # it answered at once, and reads still work
                self._log(error, consequence)
            except BrokerError as error:
                self.open(error, consequence)
        return default

    def _log(self, error: BrokerError, consequence: str) -> None:
        now = time.monotonic()
        if now >= self._silent_until:
            log.warning("the broker fails, %s: %s", consequence, error.__cause__)
        self._silent_until = now + OPEN_S

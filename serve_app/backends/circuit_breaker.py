"""A circuit breaker: after a failure, Redis is not called for a moment, so that not every request waits for it."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serve_app.errors import BrokerError

OPEN_S = 5

T = TypeVar("T")
log = logging.getLogger(__name__)


class CircuitBreaker:
    """The state of one process."""

    def __init__(self) -> None:
        self._open_until = 0.0  # by the monotonic clock

    @property
    def is_open(self) -> bool:
        return time.monotonic() < self._open_until

    def open(self, error: BrokerError, consequence: str) -> None:
        """Open after a failed call. Logs `consequence` once, not for each request."""
        if not self.is_open:
            log.warning("the broker does not answer, %s: %s", consequence, error.__cause__)
        self._open_until = time.monotonic() + OPEN_S

    async def call(self, function: Callable[[], Awaitable[T]], default: T, consequence: str) -> T:
        """The result of `function`, or `default` while the breaker is open or the call raises BrokerError."""
        if not self.is_open:
            try:
                return await function()
            except BrokerError as error:
                self.open(error, consequence)
        return default

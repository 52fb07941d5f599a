"""A circuit breaker: that the broker is away is remembered for a moment, so that not every request waits for it."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serve_app.errors import BrokerError

REMEMBERED_S = 5

T = TypeVar("T")
log = logging.getLogger(__name__)


class CircuitBreaker:
    """Of one process."""

    def __init__(self) -> None:
        self._until = 0.0  # by the monotonic clock

    @property
    def is_open(self) -> bool:
        return time.monotonic() < self._until

    def open(self, error: BrokerError, consequence: str) -> None:
        """The broker did not answer; `consequence` is for the log, which is told once and not for each request."""
        if not self.is_open:
            log.warning("the broker does not answer, %s: %s", consequence, error.__cause__)
        self._until = time.monotonic() + REMEMBERED_S

    async def call(self, ask: Callable[[], Awaitable[T]], otherwise: T, consequence: str) -> T:
        """What `ask` gives; `otherwise` where the broker does not answer, or did not a moment ago."""
        if not self.is_open:
            try:
                return await ask()
            except BrokerError as error:
                self.open(error, consequence)
        return otherwise

"""That the broker is away, remembered for a moment: not every request has to wait until it has found that out."""

import logging
import time

from serve_app.errors import BrokerError

REMEMBERED_S = 5

log = logging.getLogger(__name__)


class Outage:
    """Of one process."""

    def __init__(self) -> None:
        self._until = 0.0  # by the monotonic clock

    @property
    def lasts(self) -> bool:
        return time.monotonic() < self._until

    def begin(self, error: BrokerError, consequence: str) -> None:
        """The broker did not answer; `consequence` is for the log, which is told once and not for each request."""
        if not self.lasts:
            log.warning("the broker does not answer, %s: %s", consequence, error.__cause__)
        self._until = time.monotonic() + REMEMBERED_S

"""How late the event loop runs its callbacks. A replica whose loop is late for long refuses new work.

It must not be a health check: Serve would kill the replica, and with it all requests under way.
"""

import asyncio
import time
from collections import deque

from ray.serve import metrics

from serve_app.errors import OverloadedError

INTERVAL_S = 0.1
SAMPLES = 3  # late one after another; a single late one may be a start, or other processes on the same cores
LAG_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]


class LoopLag:
    """Measures how much later than asked a timer of this event loop fires."""

    def __init__(self, max_lag_s: float, retry_after_s: int) -> None:
        self._max_lag_s = max_lag_s
        self._retry_after_s = retry_after_s
        self._latest: deque[float] = deque([0.0] * SAMPLES, SAMPLES)
        self._watching: asyncio.Task[None] | None = None
        self._seconds = metrics.Histogram("avatar_loop_lag_seconds", "How late the event loop ran a timer.", LAG_S)

    @property
    def lag_s(self) -> float:
        """The least of the latest samples: how late the loop was all the time."""
        return min(self._latest)

    def start(self) -> None:
        """Start sampling the running event loop, every INTERVAL_S."""
        self._watching = asyncio.create_task(self._watch())

    def close(self) -> None:
        """Stop sampling; `lag_s` keeps its last value."""
        if self._watching is not None:
            self._watching.cancel()

    def check(self) -> None:
        """Raises: OverloadedError while the loop is late."""
        if self.lag_s > self._max_lag_s:
            raise OverloadedError("This replica is too busy to take on more.", self._retry_after_s)

    async def _watch(self) -> None:
        while True:
            due = time.monotonic() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)
            lag_s = max(0.0, time.monotonic() - due)
            self._latest.append(lag_s)
            self._seconds.observe(lag_s)

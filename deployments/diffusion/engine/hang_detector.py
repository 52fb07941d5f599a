"""Notices that work of the engine will not end: a device can hang without an error."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LOOK_EVERY_S = 1.0
OVERDUE_FACTOR = 10.0  # times the forecast
GRACE_S = 60.0  # beyond that
# Work that was not done before may compile or tune kernels, and its forecast was measured at another size.
FIRST_GRACE_S = 900.0


@dataclass(slots=True, eq=False)
class Work:
    """Something that runs now."""

    limit_s: float
    elapsed_s: float
    looked_at: float  # of the clock


class HangDetector:
    """Knows for how long the work of each thread has run. Thread-safe.

    Time that nobody looked counts as two looks at most: a process or a machine that was suspended has not worked.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: set[Work] = set()
        self._lock = threading.Lock()

    @contextmanager
    def timing(self, forecast_s: float, *, is_first: bool = False) -> Iterator[None]:
        """Around work that is expected to take `forecast_s`; `is_first`: work of its kind was never done before."""
        grace_s = FIRST_GRACE_S if is_first else GRACE_S
        work = Work(OVERDUE_FACTOR * forecast_s + grace_s, 0.0, self._clock())
        with self._lock:
            self._running.add(work)
        try:
            yield
        finally:
            with self._lock:
                self._running.remove(work)

    def hung_s(self) -> float | None:
        """How long the work that hangs has run; None where none does. To be asked every `LOOK_EVERY_S`."""
        with self._lock:
            now = self._clock()
            for work in self._running:
                work.elapsed_s += min(now - work.looked_at, 2 * LOOK_EVERY_S)
                work.looked_at = now
            return max((work.elapsed_s for work in self._running if work.elapsed_s > work.limit_s), default=None)

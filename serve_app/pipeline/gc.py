"""Works around a leak in Ray 2.60: chained responses stay in a reference cycle (`ObjectRef._ready`).

Only Python's garbage collector frees them, in a mostly idle process hours later. Until then the pixels stay in the
memory of the node that generated them, and an autoscaler keeps that node.
"""

import asyncio
import gc

COLLECT_S = 2.0  # delay after a job, and least time between collections


class ReferenceCollector:
    """Runs the garbage collector after jobs. Lives on one event loop."""

    def __init__(self) -> None:
        self._due: asyncio.TimerHandle | None = None

    @staticmethod
    def freeze_current() -> None:
        """Exclude all present objects from collections: those of the libraries take 0.2 s to scan."""
        gc.collect()
        gc.freeze()

    def collect_soon(self) -> None:
        """Collect in COLLECT_S, once for all jobs that end until then. The collection blocks the event loop."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(COLLECT_S, self._collect)

    def _collect(self) -> None:
        self._due = None
        gc.collect()

"""What Ray leaves behind of responses that one stage passed on to the next.

Ray 2.60 leaves each in a cycle of references (`ObjectRef._ready`), which only Python's collector finds: hours later in
a process that does little. Until then the pixels stay in the memory of the node that drew them, and an autoscaler keeps
a node whose memory is in use.
"""

import asyncio
import gc

COLLECT_S = 2.0  # after the end of a piece of work, so at most so often


class ReferenceCollector:
    """Has them collected. Lives on one event loop."""

    def __init__(self) -> None:
        self._due: asyncio.TimerHandle | None = None

    @staticmethod
    def freeze_current() -> None:
        """Leave out of collections what is there now: libraries, which take a fifth of a second to look through."""
        gc.collect()
        gc.freeze()

    def collect_soon(self) -> None:
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(COLLECT_S, self._collect)

    def _collect(self) -> None:
        self._due = None
        gc.collect()

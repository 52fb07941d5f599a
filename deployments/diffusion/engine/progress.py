"""How far images are, told to whoever wants to know while they are drawn."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from deployments.diffusion.engine.engine import DiffusionEngine
from deployments.types import ImageProgress


class ProgressSink(Protocol):
    """Where progress goes. One is given to each replica: it must be picklable, and connect when it is first used."""

    async def report(self, progress: Sequence[ImageProgress]) -> None:
        """Take what is newest of all unfinished images of a replica. Raises: OSError where it cannot be taken now."""


async def keep_reporting(engine: DiffusionEngine, sink: ProgressSink, every_s: float) -> None:
    """Until the engine ends. Its steps wait for none of this."""
    while engine.alive:
        if progress := engine.progress():
            with suppress(OSError):  # the next report says all of it again
                await sink.report(progress)
        await asyncio.sleep(every_s)

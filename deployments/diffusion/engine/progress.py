"""Reports the progress of unfinished images while they are generated."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from deployments.diffusion.engine.engine import DiffusionEngine
from deployments.types import ImageProgress


class ProgressSink(Protocol):
    """Where progress is reported. Each replica gets one: it must connect on first use, and be picklable, then too.

    Serve pickles the arguments of a running replica when another controller takes over (`list_outbound_deployments` of
    2.60), and replaces the replica where it cannot.
    """

    async def report(self, progress: Sequence[ImageProgress]) -> None:
        """Store the latest progress of all unfinished images of a replica. Raises: OSError while it is unavailable."""


async def keep_reporting(engine: DiffusionEngine, sink: ProgressSink, every_s: float) -> None:
    """Report every `every_s` seconds until the engine ends. Delays no step."""
    while engine.alive:
        if progress := engine.progress():
            with suppress(OSError):  # the next report repeats everything
                await sink.report(progress)
        await asyncio.sleep(every_s)

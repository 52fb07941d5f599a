"""Reports the progress of unfinished images while they are generated."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from deployments.diffusion.engine.engine import DiffusionEngine
from deployments.diffusion.engine.previews import Previewer
from deployments.types import ImagePreview, ImageProgress

log = logging.getLogger(__name__)


class ProgressSink(Protocol):
    """Where progress is reported. Each replica gets one: it must connect on first use, and be picklable, then too.

    Serve pickles the arguments of a running replica when another controller takes over (`list_outbound_deployments` of
    2.60), and replaces the replica where it cannot.
    """

    async def report(self, progress: Sequence[ImageProgress], previews: Sequence[ImagePreview] = ()) -> None:
        """Store the latest progress of all unfinished images of a replica, and send previews to who follows tasks.

        Raises: OSError while it is unavailable.
        """


async def keep_reporting(engine: DiffusionEngine, sink: ProgressSink, every_s: float) -> None:
    """Report every `every_s` seconds until the engine ends. Delays no step."""
    previewer: Previewer | None = Previewer()
    while engine.alive:
        previews: Sequence[ImagePreview] = ()
        if previewer is not None and (samples := engine.previewed()):
            try:
                previews = await asyncio.to_thread(previewer.due, samples)
            except Exception:  # progress is reported without them
                log.exception("previews failed: there are no more of them")
                previewer = None
        if progress := engine.progress():
            with suppress(OSError):  # the next report repeats everything but previews
                await sink.report(progress, previews)
        await asyncio.sleep(every_s)

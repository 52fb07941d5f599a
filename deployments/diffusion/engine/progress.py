"""Reports the progress of unfinished images while they are generated."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from deployments.diffusion.engine.engine import DiffusionEngine
from deployments.diffusion.engine.previews import Previewer
from deployments.types import ImagePreview, ImageProgress

MODELS_EVERY_S = 2.0

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

    async def report_models(self, loaded: Mapping[str, float]) -> None:
        """Store which models a replica has in memory, and the seconds that loading each took.

        Raises: OSError while it is unavailable.
        """


async def keep_reporting(
    engine: DiffusionEngine, sink: ProgressSink, every_s: float, loaded: Callable[[], Mapping[str, float]] = dict
) -> None:
    """Report every `every_s` seconds until the engine ends; the models that are `loaded` less often. Delays no step."""
    previewer: Previewer | None = Previewer()
    models_at = 0.0  # monotonic; of the next report of them
    while engine.alive:
        if time.monotonic() >= models_at and (models := loaded()):
            models_at = time.monotonic() + MODELS_EVERY_S
            with suppress(OSError):
                await sink.report_models(models)
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

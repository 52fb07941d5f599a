"""The background remover as a Serve deployment."""

import asyncio
import time

import numpy as np

from deployments.background.finish import decided, finish
from deployments.cold_start import ColdStart
from deployments.config import BackgroundRemoverConfig
from deployments.types import Avatar, FinishSpec, GeneratedImage


class BackgroundRemover:
    """Finishes every image: cut-out and fill where asked, exact size, thumbnail, encoding."""

    def __init__(self, config: BackgroundRemoverConfig) -> None:
        start = ColdStart()
        with start.part("import"):
            # Imported here, so that building the graph loads no model library.
            from deployments.background.model import MattingModel, RembgModel
        with start.part("load"):
            self._model: MattingModel = RembgModel(config.model)
        with start.part("warm"):
            self._model.alpha(np.zeros((256, 256, 3), np.uint8))
        start.publish()

    async def finish(self, image: GeneratedImage, spec: FinishSpec) -> Avatar:
        return await asyncio.to_thread(self._finish, image, spec)

    async def wake(self) -> None:
        """Nothing; a call has a replica start where there is none."""

    def _finish(self, image: GeneratedImage, spec: FinishSpec) -> Avatar:
        started = time.perf_counter()
        alpha = decided(self._model.alpha(image.pixels)) if spec.cuts_out else None
        data, thumbnail = finish(image.pixels, spec, alpha)
        return Avatar(
            data=data,
            thumbnail=thumbnail,
            output_format=spec.output_format,
            startup_s=image.startup_s,
            diffusion_s=image.runtime_s,
            finish_s=time.perf_counter() - started,
        )

"""The background remover as a Serve deployment."""

import asyncio
import time

from deployments.background.finish import decided, finish
from deployments.config import BackgroundRemoverConfig
from deployments.types import Avatar, FinishSpec, GeneratedImage


class BackgroundRemover:
    """Finishes every image: cut-out and fill where asked, exact size, thumbnail, encoding."""

    def __init__(self, config: BackgroundRemoverConfig) -> None:
        # Imported here, so that building the graph loads no model library.
        from deployments.background.model import MattingModel, RembgModel

        self._model: MattingModel = RembgModel(config.model)

    async def finish(self, image: GeneratedImage, spec: FinishSpec) -> Avatar:
        return await asyncio.to_thread(self._finish, image, spec)

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

"""The generator as a Serve deployment."""

import asyncio

from deployments.config import AvatarGeneratorConfig
from deployments.diffusion.engine import DiffusionEngine
from deployments.types import AvatarSpec, FaceEmbedding, GeneratedImage


class AvatarGenerator:
    """Draws one image a call."""

    def __init__(self, config: AvatarGeneratorConfig) -> None:
        # Imported here, so that building the graph loads no model library.
        from deployments.diffusion.model import FaceDiffusionModel

        models = {name: FaceDiffusionModel.load(model) for name, model in config.models.items()}
        self._engine = DiffusionEngine(models, config.max_rows)

    async def generate(self, spec: AvatarSpec, face: FaceEmbedding) -> GeneratedImage:
        """Raises: DeadlineError. A cancelled call leaves the queue, or its batch when that has nobody else."""
        return await asyncio.wrap_future(self._engine.submit(spec, face).future)

    def check_health(self) -> None:
        if not self._engine.alive:
            raise RuntimeError("the diffusion engine's thread has ended")

    def __del__(self) -> None:
        if hasattr(self, "_engine"):  # the constructor may have failed
            self._engine.close()

"""The background remover as a Serve deployment."""

import asyncio
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from deployments.background.postprocess import decided, needs_alpha, postprocess
from deployments.background.signing_identity import IdentitySource
from deployments.common.checksums import FileCheck, sha256_by_name
from deployments.common.replica_exit import exit_on_device_loss
from deployments.common.startup_metrics import ColdStart
from deployments.config import BackgroundRemoverConfig, model_path
from deployments.types import Alpha, Avatar, Box, C2paAssertion, GeneratedImage, GenerationMetadata, PostprocessSpec


class BackgroundRemover:
    """Post-processes every image: cut-out and fill where asked, exact size, thumbnail, encoding, content credentials.

    Without `identities` files are not signed.
    """

    def __init__(
        self,
        config: BackgroundRemoverConfig,
        identities: IdentitySource | None = None,
        files: FileCheck | None = None,
    ) -> None:
        start = ColdStart()
        if files is not None:
            files.check()
        with start.part("import"):
            # Imported here, so that building the graph loads no model library.
            from deployments.background.c2pa_signer import ContentSigner
            from deployments.background.model import MattingModel, RembgModel
        with start.part("load"):
            self._model: MattingModel = RembgModel(config.model)
            self._runs = ThreadPoolExecutor(config.max_runs, "matting")
            matting = model_path(config.model.model_path)
            self._weights = sha256_by_name([(f"background/{matting.name}", matting)])
            self._signer = None if identities is None else ContentSigner(identities.identity())
        with start.part("warm"):
            self._model.alpha(np.zeros((256, 256, 3), np.uint8))
        start.publish()

    async def postprocess(self, image: GeneratedImage, spec: PostprocessSpec, face: Box | None = None) -> Avatar:
        """The finished files of one image, made on threads; `drawn_sha256` is of the pixels before any change.

        `face` is where the image shows it, in its pixels: it is whole on the file, whatever shape that has. Images wait
        in order for a run of the matting model; one that nobody waits for any more takes none. A spec without
        `assertion` leaves the files unsigned. The process ends where the device is lost.
        """
        started = time.perf_counter()
        alpha = None
        if needs_alpha((image.pixels.shape[1], image.pixels.shape[0]), spec, face):
            with exit_on_device_loss():
                run = asyncio.get_running_loop().run_in_executor(self._runs, self._model.alpha, image.pixels)
                alpha = decided(await run)
        return await asyncio.to_thread(self._finish, image, spec, face, alpha, started)

    async def scale_from_zero(self) -> None:
        """Does nothing: the call itself makes Serve start a replica where there is none."""

    def _finish(
        self, image: GeneratedImage, spec: PostprocessSpec, face: Box | None, alpha: Alpha | None, started: float
    ) -> Avatar:
        data, thumbnail = postprocess(image.pixels, spec, alpha, face)
        assertion = spec.assertion
        if assertion is not None and image.drawn_with is not None:
            assertion = replace(assertion, sampler=image.drawn_with.sampler)
        return Avatar(
            data=self._signed(data, f"image/{spec.output_format}", assertion),
            thumbnail=self._signed(thumbnail, "image/webp", assertion),
            output_format=spec.output_format,
            startup_s=image.startup_s,
            diffusion_s=image.runtime_s,
            finish_s=time.perf_counter() - started,
            drawn_with=self._with_matting(image.drawn_with) if alpha is not None else image.drawn_with,
            drawn_sha256=hashlib.sha256(image.pixels.tobytes()).hexdigest(),
        )

    def _with_matting(self, drawn_with: GenerationMetadata | None) -> GenerationMetadata | None:
        """Adds the weights of the matting model: the file depends on them, too."""
        return None if drawn_with is None else replace(drawn_with, weights={**drawn_with.weights, **self._weights})

    def _signed(self, data: bytes, media_type: str, assertion: C2paAssertion | None) -> bytes:
        return data if self._signer is None or assertion is None else self._signer.sign(data, media_type, assertion)

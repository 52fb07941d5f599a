"""Decodes photos in confined child processes: a picture that breaks or occupies its decoder harms nothing else."""

import asyncio
import sys
from collections.abc import Iterable
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from deployments.types import Photo
from serve_app.errors import ImageUrlError
from serve_app.photos.decode import FORMATS, ORIENTATION_TAG, PhotoSettings, decode_photo
from serve_app.sandbox.process import (
    ANSWER,
    Receive,
    SandboxedProcess,
    SandboxPool,
    SandboxSettings,
    refusal_parts,
    serve_pictures,
)


class PhotoDecoder:
    """`decode_photo` in a few child processes, which start with `start` or else with the first photos."""

    def __init__(self, limits: PhotoSettings, settings: SandboxSettings) -> None:
        self._pool = SandboxPool(lambda: DecoderProcess(limits, settings), "decode", settings.processes)

    def start(self) -> None:
        """Start the processes before the first photos come, and do not wait until they are ready."""
        self._pool.start()

    async def decode(self, data: bytes) -> Photo:
        """Raises: ImageUrlError, also for a picture that killed or stalled its decoder; SandboxStartError."""
        return await self._pool.ask(data)

    async def close(self) -> None:
        """Waits for the photos that are being decoded."""
        await asyncio.to_thread(self._pool.close)


class DecoderProcess(SandboxedProcess[Photo]):
    def __init__(self, limits: PhotoSettings, settings: SandboxSettings) -> None:
        """Raises: OSError."""
        super().__init__(__name__, [limits.model_dump_json(), settings.model_dump_json()], settings)
        self._limits = limits

    def _read(self, first: int, second: int, receive: Receive) -> Photo:
        height, width = first, second
        if not 0 < min(height, width) <= max(height, width) <= self._limits.max_side:
            raise ValueError(f"an answer of {height}x{width}")
        pixels = np.frombuffer(receive(height * width * 3), np.uint8).reshape(height, width, 3)
        pixels.flags.writeable = False
        return Photo(pixels)


def answer_parts(data: bytes, limits: PhotoSettings) -> Iterable[bytes | memoryview]:
    """Height, width and pixels, or the refusal."""
    try:
        pixels = decode_photo(data, limits).pixels
    except ImageUrlError as error:
        return refusal_parts(error)
    return ANSWER.pack(*pixels.shape[:2]), np.ascontiguousarray(pixels).data


def sample_pictures() -> list[bytes]:
    """One of each format, with a colour profile and EXIF."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = [BytesIO() for _ in FORMATS]
    for file, image_format in zip(files, FORMATS, strict=True):
        Image.new("RGB", (16, 16)).save(file, image_format, exif=exif, icc_profile=profile)
    return [file.getvalue() for file in files]


def main(limits: PhotoSettings, settings: SandboxSettings) -> None:
    for picture in sample_pictures():  # so that nothing is left to be loaded
        decode_photo(picture, PhotoSettings(min_side=1))
    serve_pictures(lambda data: answer_parts(data, limits), sys.stdin.buffer, sys.stdout.buffer, settings)


if __name__ == "__main__":
    main(PhotoSettings.model_validate_json(sys.argv[1]), SandboxSettings.model_validate_json(sys.argv[2]))

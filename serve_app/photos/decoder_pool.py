"""Decodes photos in sandboxed child processes: a photo that crashes or stalls its decoder harms nothing else."""

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
from serve_app.sandbox.turns import ProcessTurns, Use


class PhotoDecoder(SandboxPool[Photo]):
    """`decode_photo` in a few child processes."""

    def __init__(self, limits: PhotoSettings, settings: SandboxSettings, use: Use | None = None) -> None:
        turns = ProcessTurns(settings.processes, settings.owner_seconds, use)
        super().__init__(lambda: DecoderProcess(limits, settings), "decode", turns)

    async def decode(self, data: bytes, owner: str = "") -> Photo:
        """Raises: ImageUrlError, also for a photo that killed or stalled its decoder; what `ask` raises."""
        return await self.ask(data, owner)


class DecoderProcess(SandboxedProcess[Photo]):
    """A child that decodes one picture at a time to (h, w, 3) RGB, read-only, neither side longer than `max_side`."""

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
    """Height, width and pixels, or a refusal."""
    try:
        pixels = decode_photo(data, limits).pixels
    except ImageUrlError as error:
        return refusal_parts(error)
    return ANSWER.pack(*pixels.shape[:2]), np.ascontiguousarray(pixels).data


def sample_pictures() -> list[bytes]:
    """A small picture of each format, with a colour profile and EXIF."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = [BytesIO() for _ in FORMATS]
    for file, image_format in zip(files, FORMATS, strict=True):
        Image.new("RGB", (16, 16)).save(file, image_format, exif=exif, icc_profile=profile)
    return [file.getvalue() for file in files]


def main(limits: PhotoSettings, settings: SandboxSettings) -> None:
    """The program of the child: loads all codecs, then decodes the pictures on stdin until that ends."""
    for picture in sample_pictures():  # loads all codecs: the sandbox opens no files
        decode_photo(picture, PhotoSettings(min_side=1))
    serve_pictures(lambda data: answer_parts(data, limits), sys.stdin.buffer, sys.stdout.buffer, settings)


if __name__ == "__main__":
    main(PhotoSettings.model_validate_json(sys.argv[1]), SandboxSettings.model_validate_json(sys.argv[2]))

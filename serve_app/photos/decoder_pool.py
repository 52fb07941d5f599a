"""Decodes photos in sandboxed child processes: a photo that crashes or stalls its decoder harms nothing else."""

import base64
import sys
from collections.abc import Iterable
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from deployments.types import PHOTO_WARNINGS, Photo
from serve_app.errors import ImageUrlError
from serve_app.photos.decode import HAS_HEIC, ORIENTATION_TAG, PhotoSettings, decode_photo
from serve_app.sandbox.process import (
    ANSWER,
    IS_LARGE,
    LargePictureError,
    Receive,
    SandboxedProcess,
    SandboxPool,
    SandboxSettings,
    refusal_parts,
    serve_pictures,
)
from serve_app.sandbox.turns import ProcessTurns, Use

WRITTEN = ("JPEG", "PNG", "WEBP", "AVIF")
# 16 grey pixels by 16, as pillow-heif writes them: what is installed here only reads HEIC.
HEIC_SAMPLE = """
AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAXZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAAAERA
AAEAAQAAAAABmgABAAAAAAAAABwAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA9mlwcnAAAADWaXBjbwAA
AHFodmNDAQQIAAAAn/gAAAAAHvAA/Pz4+AAADwNgAAEAF0ABDAH//wQIAAADAJ/4AAADAAAeugJAYQABACZCAQEECAAAAwCf+AAAAwAAHsCCBBZbqrpr
mwIAAAMAMgAAAwACEGIAAQAGRAHBc8GJAAAAE2NvbHJuY2x4AAEADQAGgAAAABRpc3BlAAAAAAAAAEAAAABAAAAAKGNsYXAAAAAQAAAAAQAAABAAAAAB
////0AAAAAL////QAAAAAgAAAA5waXhpAAAAAAEIAAAAGGlwbWEAAAAAAAAAAQABBYECAwWEAAAAJG1kYXQAAAAYKAGuMkcbgMp4V1NArcxZFKDZCJCT
eTjA
"""


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
        warnings = _warnings_of(receive(1)[0])
        if not 0 < min(height, width) <= max(height, width) <= self._limits.max_side:
            raise ValueError(f"an answer of {height}x{width}")
        pixels = np.frombuffer(receive(height * width * 3), np.uint8).reshape(height, width, 3)
        pixels.flags.writeable = False
        return Photo(pixels, warnings=warnings)


def answer_parts(data: bytes, limits: PhotoSettings, *, large: bool) -> Iterable[bytes | memoryview]:
    """Height, width, a bit for each warning, and pixels; or a refusal, or that the picture is large."""
    try:
        photo = decode_photo(data, limits, large=large)
    except LargePictureError:
        return (IS_LARGE,)
    except ImageUrlError as error:
        return refusal_parts(error)
    bits = sum(1 << index for index, code in enumerate(PHOTO_WARNINGS) if code in photo.warnings)
    return ANSWER.pack(*photo.pixels.shape[:2]), bytes([bits]), np.ascontiguousarray(photo.pixels).data


def _warnings_of(bits: int) -> tuple[str, ...]:
    """Raises: ValueError for a bit that stands for none."""
    if bits >> len(PHOTO_WARNINGS):
        raise ValueError(f"warnings of {bits}")
    return tuple(code for index, code in enumerate(PHOTO_WARNINGS) if bits >> index & 1)


def sample_pictures() -> list[bytes]:
    """A small picture of each format that can be written here, with a colour profile and EXIF, and one of HEIC."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = [BytesIO() for _ in WRITTEN]
    for file, image_format in zip(files, WRITTEN, strict=True):
        Image.new("RGB", (16, 16)).save(file, image_format, exif=exif, icc_profile=profile)
    heic = [base64.b64decode(HEIC_SAMPLE)] if HAS_HEIC else []
    return [*(file.getvalue() for file in files), *heic]


def main(limits: PhotoSettings, settings: SandboxSettings) -> None:
    """The program of the child: loads all codecs, then decodes the pictures on stdin until that ends."""
    for picture in sample_pictures():  # loads all codecs: the sandbox opens no files
        decode_photo(picture, PhotoSettings(min_side=1))
    serve_pictures(
        lambda data, large: answer_parts(data, limits, large=large),
        sys.stdin.buffer,
        sys.stdout.buffer,
        settings,
        threads=HAS_HEIC,
    )


if __name__ == "__main__":
    main(PhotoSettings.model_validate_json(sys.argv[1]), SandboxSettings.model_validate_json(sys.argv[2]))

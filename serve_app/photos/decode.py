"""Decodes the bytes of a client into a `Photo`: upright, sRGB, no larger than needed.

The bytes are hostile until decoded. Only three of Pillow's decoders are reachable, the size is checked before pixels
are allocated, and any exception of a decoder is the client's error. Work proceeds in bands, so that a large photo
takes little more memory than its decoded pixels.
"""

import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from math import ceil

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

# Imported here so that Pillow does not load its forty other decoders to find the one for WEBP, and loads none later: a
# decoder process cannot open files. (MPO is a JPEG with several frames.)
from PIL import JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401  # isort: skip
from pydantic import BaseModel, ConfigDict, PositiveInt

from deployments.types import Photo
from serve_app.errors import ImageUrlError, too_costly

FORMATS = ("JPEG", "PNG", "WEBP")
STARTS = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"RIFF", "webp"))
BAND_PIXELS = 1 << 20

# Each of these costs a few bytes in the file and a pass over the picture or its header in the decoder, so a file within
# the size limit could take an hour. Files of cameras and editors stay far below these limits.
MAX_JPEG_SEGMENTS = 1024
MAX_JPEG_SCANS = 64
MAX_PNG_CHUNKS = 16384

# The markers that start a segment, as Pillow reads them: all except fill bytes, restarts, start and end of image, and
# extensions. What follows one of these has no length, and may be a segment at once.
_JPEG_SEGMENT = re.compile(rb"\xff([^\x00\x01\xff\xc8\xd0-\xd9\xf0-\xfd])")

DECODE_ERRORS = (
    ArithmeticError,  # overflow and division by zero in sizes and resolutions
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,  # IndexError, KeyError
    NotImplementedError,
    OSError,  # most damaged files
    SyntaxError,  # Pillow's error for a malformed file
    TypeError,
    ValueError,
    Warning,  # where warnings are errors
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    ImageCms.PyCMSError,
)

# Pillow warns about what is rejected or repaired here anyway: large sizes, damaged EXIF. The filter is set once because
# `warnings.catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")

ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PhotoSettings(BaseModel):
    """Limits of a reference photo, in pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_side: PositiveInt = 1536
    min_side: PositiveInt = 16  # after downscaling, so that it limits the aspect ratio too
    max_pixels: PositiveInt = 40_000_000
    max_webp_pixels: PositiveInt = 16_000_000  # its decoder keeps several copies of the picture


def decode_photo(data: bytes, limits: PhotoSettings) -> Photo:
    """The first frame of a JPEG, PNG or WEBP, detected by its content. Thread-safe. Raises: ImageUrlError."""
    _check_structure(data)
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            size = _fitted_size(image, limits)
            return Photo(np.asarray(_decoded(image, size)))
    except UnidentifiedImageError:
        raise ImageUrlError(
            "this is not a picture that can be read", reason="not_an_image", formats=list(FORMATS)
        ) from None
    except Image.DecompressionBombError:
        raise _too_many_pixels(limits.max_pixels) from None
    except MemoryError:
        raise too_costly() from None
    except DECODE_ERRORS as error:
        raise ImageUrlError("the picture is damaged", reason="broken") from error


def kind_of(data: bytes) -> str:
    """jpeg, png or webp by the first bytes, otherwise unknown."""
    return next((kind for start, kind in STARTS if data.startswith(start)), "unknown")


def pack_photo(photo: Photo) -> bytes:
    """A decoded photo as lossless WebP, for the object store."""
    file = BytesIO()
    Image.fromarray(photo.pixels).save(file, "WEBP", lossless=True, quality=0, method=0)
    return file.getvalue()


def unpack_photo(data: bytes) -> Photo:
    """The inverse of `pack_photo`."""
    with Image.open(BytesIO(data), formats=["WEBP"]) as image:
        return Photo(np.asarray(image.convert("RGB")))


def _check_structure(data: bytes) -> None:
    """Rejects files that would take very long to decode, before a decoder sees them. Raises: ImageUrlError."""
    if data.startswith(b"\xff\xd8"):
        markers = list(islice(_jpeg_markers(data), MAX_JPEG_SEGMENTS + 1))
        bounded = len(markers) <= MAX_JPEG_SEGMENTS and markers.count(b"\xda") <= MAX_JPEG_SCANS
    else:
        chunks = list(islice(_png_chunks(data), MAX_PNG_CHUNKS + 1))
        bounded = len(chunks) <= MAX_PNG_CHUNKS and chunks.count(b"iCCP") <= 1
    if not bounded:
        raise ImageUrlError("the picture is made of too many parts", reason="broken")


def _jpeg_markers(data: bytes) -> Iterator[bytes]:
    at = 2
    while segment := _JPEG_SEGMENT.search(data, at):
        yield segment[1]
        at = segment.end() + int.from_bytes(data[segment.end() : segment.end() + 2], "big")


def _png_chunks(data: bytes) -> Iterator[bytes]:
    at = 8
    while data.startswith(b"\x89PNG") and at + 8 <= len(data):
        yield data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _fitted_size(image: Image.Image, limits: PhotoSettings) -> tuple[int, int]:
    """Width and height to downscale to, from the header alone. Raises: ImageUrlError."""
    max_pixels = limits.max_webp_pixels if image.format == "WEBP" else limits.max_pixels
    width, height = image.size
    if width * height > max_pixels:
        raise _too_many_pixels(max_pixels)
    scale = min(1.0, limits.max_side / max(width, height))
    fitted = (round(width * scale), round(height * scale))
    if min(fitted) < limits.min_side:
        raise ImageUrlError(
            f"the picture is too small or too narrow: {width}x{height}", reason="too_small", min_side=limits.min_side
        )
    return fitted


def _decoded(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """RGB, scaled to `size`, then turned upright."""
    image.draft(None, size)  # JPEGs decode at 1/2, 1/4 or 1/8, no smaller than `size`; other formats ignore it
    image.load()
    profile = image.info.get("icc_profile")
    transpose = _exif_transpose(image)
    reduced = _reduced(image, min(image.width // size[0], image.height // size[1]))
    rgb = _in_srgb(reduced.resize(size, Image.Resampling.LANCZOS), profile)
    return rgb if transpose is None else rgb.transpose(transpose)


def _exif_transpose(image: Image.Image) -> Image.Transpose | None:
    """The transposition that EXIF asks for; None if there is none or the EXIF is damaged."""
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
    except DECODE_ERRORS:
        return None


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    """`image` flattened and reduced by `factor`, in bands: flattening the whole would double the memory."""
    rows = factor * ceil(BAND_PIXELS / (image.width * factor))
    bands = [
        _flat(image.crop((0, top, image.width, min(top + rows, image.height)))).reduce(factor)
        for top in range(0, image.height, rows)
    ]
    reduced = Image.new(bands[0].mode, (bands[0].width, sum(band.height for band in bands)))
    for index, band in enumerate(bands):
        reduced.paste(band, (0, index * (rows // factor)))
    return reduced


def _flat(image: Image.Image) -> Image.Image:
    """8 bits a channel, without palette, composited on white: mode L, RGB or CMYK."""
    if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip to white
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(rgba, mask=rgba)
        return canvas
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """`image` converted to sRGB; a damaged profile, or one for other channels, is ignored."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except DECODE_ERRORS:
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def _too_many_pixels(max_pixels: int) -> ImageUrlError:
    return ImageUrlError(
        f"the picture has more than {max_pixels} pixels", reason="too_many_pixels", max_pixels=max_pixels
    )

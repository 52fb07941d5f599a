"""From the bytes that a client sent to a `Photo`: upright, sRGB, no larger than needed.

The bytes are hostile until decoded. Only three decoders of Pillow are reachable, the size is checked before pixels are
made, and whatever a decoder throws is the client's error. Work goes band by band, so that the memory of a large photo
stays near that of its decoded pixels alone.
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

# Imported here so that Pillow never loads its forty other decoders to find the one for WEBP, and loads none later: a
# decoder process opens no files. (MPO is the JPEG of several frames.)
from PIL import JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401  # isort: skip
from pydantic import BaseModel, ConfigDict, PositiveInt

from deployments.types import Photo
from serve_app.errors import ImageUrlError, too_costly

FORMATS = ("JPEG", "PNG", "WEBP")
STARTS = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"RIFF", "webp"))
BAND_PIXELS = 1 << 20

# A few bytes of each of these cost a decoder a pass over the picture or over its header, so that a file within the size
# limit could keep it busy for an hour. Cameras and editors stay far below.
MAX_JPEG_SEGMENTS = 1024
MAX_JPEG_SCANS = 64
MAX_PNG_CHUNKS = 16384

# The markers that start a segment: all but fill bytes, restarts, start and end of the image.
_JPEG_SEGMENT = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd9])")

DECODE_ERRORS = (
    ArithmeticError,  # overflow and division by zero in sizes and resolutions
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,  # IndexError, KeyError
    NotImplementedError,
    OSError,  # most of the damaged files
    SyntaxError,  # Pillow's word for a malformed file
    TypeError,
    ValueError,
    Warning,  # where warnings are turned into errors
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    ImageCms.PyCMSError,
)

# Pillow warns of what is refused or repaired here anyway (large sizes, damaged EXIF). The filter is set once for the
# process because `warnings.catch_warnings` is not safe in threads.
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
    min_side: PositiveInt = 16  # after shrinking, so that it bounds the aspect ratio too
    max_pixels: PositiveInt = 40_000_000
    max_webp_pixels: PositiveInt = 16_000_000  # its decoder keeps several copies of the picture


def decode_photo(data: bytes, limits: PhotoSettings) -> Photo:
    """Decodes the first frame of a JPEG, PNG or WEBP, told by its content. Raises ImageUrlError. Safe in threads."""
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
    """jpeg, png or webp, by the first bytes; else unknown."""
    return next((kind for start, kind in STARTS if data.startswith(start)), "unknown")


def pack_photo(photo: Photo) -> bytes:
    """A decoded photo for the store, without loss."""
    file = BytesIO()
    Image.fromarray(photo.pixels).save(file, "WEBP", lossless=True, quality=0, method=0)
    return file.getvalue()


def unpack_photo(data: bytes) -> Photo:
    """What `pack_photo` packed."""
    with Image.open(BytesIO(data), formats=["WEBP"]) as image:
        return Photo(np.asarray(image.convert("RGB")))


def _check_structure(data: bytes) -> None:
    """Refuses what would decode for very long, before a decoder sees it."""
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
    """The size to shrink to, from the header alone."""
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
    """RGB of `size`, then turned upright."""
    image.draft(None, size)  # a JPEG decodes at 1/2, 1/4 or 1/8, no smaller than `size`; the others ignore it
    image.load()
    profile = image.info.get("icc_profile")
    turn = _turn(image)
    reduced = _reduced(image, min(image.width // size[0], image.height // size[1]))
    rgb = _in_srgb(reduced.resize(size, Image.Resampling.LANCZOS), profile)
    return rgb if turn is None else rgb.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How EXIF says to turn the picture; a damaged EXIF says nothing."""
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
    except DECODE_ERRORS:
        return None


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    """`image` flattened and divided by `factor`, band by band: flattening the whole would double the memory."""
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
    """8 bits a channel, no palette, what is transparent on white: mode L, RGB or CMYK."""
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
    """`image` as sRGB; a profile that is damaged, or made for other channels, is ignored."""
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

"""Decodes the bytes of a client into a `Photo`: upright, sRGB, no larger than needed.

The bytes are hostile until decoded. The decoder is chosen by the first bytes and is one of five, the size is checked
before pixels are allocated, and any exception of a decoder is the client's error. Work proceeds in bands, so that a
large photo takes little more memory than its decoded pixels.
"""

import struct
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from math import ceil

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

# Imported here so that Pillow does not load its forty other decoders to find the one for WEBP, and loads none later: a
# decoder process cannot open files. (MPO is a JPEG with several frames; EXIF is read by the decoder of TIFF.)
from PIL import AvifImagePlugin, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401  # isort: skip
from pydantic import BaseModel, ConfigDict, PositiveInt

from deployments.types import PHOTO_WARNINGS, Photo
from serve_app.errors import ImageUrlError, too_costly
from serve_app.photos.colour import to_srgb, wide_primaries
from serve_app.photos.file_kind import FORMATS, kind_of, not_a_picture
from serve_app.photos.jpeg import END, JpegStructure, jpeg_structure
from serve_app.photos.png import is_bounded, png_chunks, without_large_texts
from serve_app.sandbox.process import LargePictureError

try:
    import pi_heif
except ImportError:  # the extra `heic` is not installed
    HAS_HEIC = False
else:
    HAS_HEIC = True
    # libde265 starts a thread for each picture, and libheif as many more as it is allowed at least one of.
    pi_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)

AvifImagePlugin.DEFAULT_MAX_THREADS = 1
Image.MAX_IMAGE_PIXELS = None  # Pillow's one limit for all formats; those here are by format, and lower for most

BAND_PIXELS = 1 << 20
LEAST_ROWS = 0.95  # of a JPEG that lost its end, for it to be used
UNDECODED = (1, 254, 2, 253)  # fills a JPEG before it is decoded: no picture has a whole row of it

ANIMATED = ("png", "webp", "avif")  # phones keep other pictures beside the first in JPEG and HEIC: depth, brightness

# Up to these sizes a picture is decoded within `timeout_s` of the decoder; larger ones wait for a turn of large ones.
QUICK_PIXELS = {"jpeg": 40_000_000, "png": 40_000_000, "webp": 16_000_000, "avif": 13_000_000, "heic": 13_000_000}
QUICK_COEFFICIENT_BYTES = 240_000_000

DECODE_ERRORS = (
    ArithmeticError,  # overflow and division by zero in sizes and resolutions
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,  # IndexError, KeyError
    OSError,  # most damaged files
    RuntimeError,  # NotImplementedError, and of the decoders of AVIF and HEIC
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
    # By the memory of a decoder process (`decoder.max_memory_bytes`): `python -m loadtest.bench.photos` measures it.
    max_jpeg_pixels: PositiveInt = 220_000_000  # decoded at an eighth of its size
    max_coefficient_bytes: PositiveInt = 660_000_000  # of a JPEG in several scans, held at once: 3 to 6 a pixel
    max_pixels: PositiveInt = 50_400_000  # PNG, AVIF, HEIC; 8192 x 6144 and 8688 x 5792, cameras' "50 megapixels", fit
    max_webp_pixels: PositiveInt = 50_400_000  # its decoder keeps several copies of the picture


def decode_photo(data: bytes, limits: PhotoSettings, *, large: bool = True) -> Photo:
    """The first frame of a JPEG, PNG, WebP, AVIF or HEIC, detected by its content. Thread-safe.

    Raises: ImageUrlError; LargePictureError for one that takes longer than most, unless it may be `large`.
    """
    kind = kind_of(data)
    if kind not in FORMATS:
        raise not_a_picture(data)
    if kind == "heic" and not HAS_HEIC:
        raise ImageUrlError(
            "this service is not set up to read HEIC: save it as JPEG", reason="not_an_image", kind="heic"
        )
    if kind == "jpeg":
        file = _File(data, kind, jpeg_structure(data))
        bounded = file.jpeg is not None and file.jpeg.is_bounded
    else:
        chunks = png_chunks(data) if kind == "png" else []
        bounded = is_bounded(chunks)
        file = _File(without_large_texts(data, chunks) if bounded else data, kind, None)
    if not bounded:
        raise ImageUrlError("the picture is made of too many parts", reason="broken")
    return _decode(file, limits, large=large)


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    """A picture to decode: its kind, and of a JPEG its structure."""

    data: bytes
    kind: str
    jpeg: JpegStructure | None
    is_clipped: bool = False

    def ended(self) -> "_File":
        """The same with an end, where it lost its own: a progressive JPEG is decoded as far as its scans go."""
        return _File(self.data + END, self.kind, self.jpeg, is_clipped=True)


def _decode(file: _File, limits: PhotoSettings, *, large: bool) -> Photo:
    """Raises: ImageUrlError; LargePictureError."""
    try:
        with Image.open(BytesIO(file.data), formats=(FORMATS[file.kind],)) as image:
            size = _fitted_size(image, file, limits)
            if not large and _is_large(image, file):
                raise LargePictureError
            return _decoded(image, file, size, limits)
    except _LostEndError:
        return _decode(file.ended(), limits, large=large)
    except UnidentifiedImageError:
        if file.kind in ("avif", "heic"):  # of which the whole is read before anything is known
            raise ImageUrlError("the picture is damaged", reason="broken") from None
        raise not_a_picture(file.data) from None
    except MemoryError:
        raise too_costly() from None
    except DECODE_ERRORS as error:
        raise ImageUrlError("the picture is damaged", reason="broken") from error


def pack_photo(photo: Photo) -> bytes:
    """A decoded photo as lossless WebP, for the object store; its warnings are where WebP has XMP."""
    file = BytesIO()
    codes = " ".join(photo.warnings).encode()
    Image.fromarray(photo.pixels).save(file, "WEBP", lossless=True, quality=0, method=0, xmp=codes)
    return file.getvalue()


def unpack_photo(data: bytes) -> Photo:
    """The inverse of `pack_photo`."""
    with Image.open(BytesIO(data), formats=["WEBP"]) as image:
        codes = image.info.get("xmp", b"").decode().split()
        return Photo(np.asarray(image.convert("RGB")), warnings=tuple(codes))


class _LostEndError(Exception):
    """A progressive JPEG has no end, but a first scan of the whole picture."""


def _is_large(image: Image.Image, file: _File) -> bool:
    """Whether decoding takes longer than `timeout_s` of the decoder allows, judged by the header."""
    coefficient_bytes = 0 if file.jpeg is None else file.jpeg.coefficient_bytes
    width, height = image.size
    return width * height > QUICK_PIXELS[file.kind] or coefficient_bytes > QUICK_COEFFICIENT_BYTES


def _fitted_size(image: Image.Image, file: _File, limits: PhotoSettings) -> tuple[int, int]:
    """Width and height to downscale to, from the header alone. Raises: ImageUrlError."""
    width, height = image.size
    most = _max_pixels(width * height, file, limits)
    if width * height > most:
        raise ImageUrlError(
            f"the picture has {width}x{height} pixels, more than the {most} that are accepted for such a file: "
            "make it smaller",
            reason="too_many_pixels",
            max_pixels=most,
        )
    return _fit(width, height, limits)


def _max_pixels(pixels: int, file: _File, limits: PhotoSettings) -> int:
    """The limit for a picture of this kind, which for some JPEGs depends on how they are compressed."""
    if file.jpeg is None:
        return limits.max_webp_pixels if file.kind == "webp" else limits.max_pixels
    held = file.jpeg.coefficient_bytes
    return min(
        limits.max_jpeg_pixels, pixels * limits.max_coefficient_bytes // held if held else limits.max_jpeg_pixels
    )


def _fit(width: int, height: int, limits: PhotoSettings) -> tuple[int, int]:
    scale = min(1.0, limits.max_side / max(width, height))
    fitted = (round(width * scale), round(height * scale))
    if min(fitted) < limits.min_side:
        raise ImageUrlError(
            f"the picture is too small or too narrow: {width}x{height}", reason="too_small", min_side=limits.min_side
        )
    return fitted


def _decoded(image: ImageFile.ImageFile, file: _File, size: tuple[int, int], limits: PhotoSettings) -> Photo:
    """RGB, scaled to `size`, then turned upright."""
    image.draft(None, size)  # JPEGs decode at 1/2, 1/4 or 1/8, no smaller than `size`; other formats ignore it
    drafted = image.height
    rows = _load(image, file)
    profile = image.info.get("icc_profile")
    transpose = _exif_transpose(image)
    whole: Image.Image = image
    if rows < drafted:
        whole = image.crop((0, 0, image.width, rows))
        size = _fit(size[0], max(1, round(size[1] * rows / drafted)), limits)
    reduced = _reduced(whole, min(whole.width // size[0], whole.height // size[1]))
    rgb = _in_srgb(reduced.resize(size, Image.Resampling.LANCZOS), profile)
    primaries = wide_primaries(file.data) if file.kind in ("avif", "heic") and not profile else None
    if primaries is not None:
        rgb = Image.fromarray(to_srgb(np.asarray(rgb), primaries))
    upright = rgb if transpose is None else rgb.transpose(transpose)
    is_known = {
        "clipped": file.is_clipped or rows < drafted,
        "first_frame": file.kind in ANIMATED and getattr(image, "n_frames", 1) > 1,
    }
    return Photo(np.asarray(upright), warnings=tuple(code for code in PHOTO_WARNINGS if is_known[code]))


def _load(image: ImageFile.ImageFile, file: _File) -> int:
    """Decode the pixels; returns how many rows there are, all but for a JPEG that lost its end.

    Raises: what the decoder raises; _LostEndError.
    """
    if file.jpeg is None:
        image.load()
        return image.height
    colour = UNDECODED[: len(image.getbands())]
    image.im = Image.new(image.mode, image.size, colour if len(colour) > 1 else colour[0]).im
    try:
        image.load()
    except OSError:
        image.tile = []  # else it would be decoded again
        rows = _rows_decoded(image, colour)
        if rows == 0 and file.jpeg.first_scan_ends and not file.is_clipped:
            raise _LostEndError from None
        if rows < LEAST_ROWS * image.height:
            raise
        return rows
    return image.height


def _rows_decoded(image: Image.Image, undecoded: tuple[int, ...]) -> int:
    """Up to the last row that is not all `undecoded`."""
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    is_decoded = (pixels != np.array(undecoded, np.uint8)).any(axis=(1, 2))
    return int(is_decoded.nonzero()[0][-1]) + 1 if is_decoded.any() else 0


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

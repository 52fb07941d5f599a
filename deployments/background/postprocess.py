"""Turns a generated image into the client's files: exact size, cut-out, fill, thumbnail, encoding.

Independent of how the alpha was computed.
"""

import io
import math

import numpy as np
from PIL import Image, ImageFilter

from deployments.background.framing import Frame, extended, frame_of
from deployments.types import Alpha, Box, OutputFormat, Pixels, PostprocessSpec

THUMBNAIL_SIDE = 256  # pixels, the longer one
WEBP_QUALITY = 90
THUMBNAIL_QUALITY = 80
JPEG_QUALITY = 92

# How far a colour of the figure is extended over its soft edge, in parts of the longer side. A pixel takes the colour
# of the shortest reach that covers it, which is the closest to the nearest part of the figure.
EDGE_REACHES = (1 / 150, 1 / 40, 1 / 10)
SURE_ALPHA = 250  # from this on a pixel's colour is the figure's own
CLEAR, SOLID = 20, 236  # of 255; values between them stay soft
MIN_WEIGHT = 24  # of 255; the blur rounds to integers, so a lower weight gives too coarse a colour


def needs_alpha(size: tuple[int, int], spec: PostprocessSpec, face: Box | None) -> bool:
    """Whether a picture of this width and height is cut out, or its background is extended."""
    return spec.cuts_out or frame_of(size, spec.width, spec.height, face).extends(size)


def postprocess(
    pixels: Pixels, spec: PostprocessSpec, alpha: Alpha | None, face: Box | None = None
) -> tuple[bytes, bytes]:
    """The encoded image and its WebP thumbnail. `pixels` is (h, w, 3), `alpha` (h, w); both are resized to `spec`.

    `face` is kept whole on it; `needs_alpha` says where there has to be an alpha.
    """
    size = (pixels.shape[1], pixels.shape[0])
    if alpha is None and needs_alpha(size, spec, face):
        raise ValueError("this spec needs an alpha")
    frame = frame_of(size, spec.width, spec.height, face)
    if spec.cuts_out and alpha is not None:
        pixels = figure_colours(pixels, alpha)
    if alpha is not None and frame.extends(size):
        pixels, alpha, frame = extended(pixels, alpha, frame)
    picture = fit(Image.fromarray(pixels), frame, spec.width, spec.height)
    if spec.cuts_out and alpha is not None:
        picture.putalpha(fit(Image.fromarray(alpha), frame, spec.width, spec.height))
        picture = without_hidden_colours(picture) if spec.bg_color is None else fill(picture, spec.bg_color)
    return encode(picture, spec.output_format), thumbnail(picture)


def decided(alpha: Alpha) -> Alpha:
    """(h, w): nearly transparent becomes transparent, nearly opaque opaque: matting networks are seldom certain."""
    levels = np.clip((np.arange(256) - CLEAR) * (255 / (SOLID - CLEAR)) + 0.5, 0, 255)
    return np.take(levels.astype(np.uint8), alpha)


def fit(picture: Image.Image, frame: Frame, width: int, height: int) -> Image.Image:
    """Resample a part of a picture to width x height."""
    if picture.size == (width, height) and frame == Frame(0, 0, width, height):
        return picture
    right, bottom = min(picture.width, frame.left + frame.width), min(picture.height, frame.top + frame.height)
    box = (max(0.0, frame.left), max(0.0, frame.top), right, bottom)
    return picture.resize((width, height), Image.Resampling.LANCZOS, box=box)


def figure_colours(pixels: Pixels, alpha: Alpha) -> Pixels:
    """(h, w, 3): at soft edges and beyond, the figure's own colours instead of mixtures with the background.

    A normalised blur of the certain foreground: a rough, fast approximation of foreground estimation.
    """
    sure = alpha >= SURE_ALPHA
    if not sure.any():
        return pixels
    known = Image.fromarray(np.dstack([pixels * sure[..., None], sure * np.uint8(255)]))
    colours, unknown = pixels.copy(), ~sure
    for reach in EDGE_REACHES:
        blurred = np.asarray(known.filter(ImageFilter.BoxBlur(math.ceil(max(alpha.shape) * reach))))
        reached = unknown & (blurred[..., 3] >= MIN_WEIGHT)
        colour, weight = blurred[reached][:, :3], blurred[reached][:, 3:]
        colours[reached] = np.minimum(colour * (255.0 / weight) + 0.5, 255).astype(np.uint8)
        unknown &= ~reached
    colours[unknown] = pixels[sure].mean(axis=0)
    return colours


def without_hidden_colours(figure: Image.Image) -> Image.Image:
    """RGBA, black wherever it is fully transparent: a smaller file that reveals nothing of the background."""
    rgba = np.array(figure)
    rgba[rgba[..., 3] == 0] = 0
    return Image.fromarray(rgba)


def fill(figure: Image.Image, color: tuple[int, int, int]) -> Image.Image:
    """The RGBA figure on one colour: RGB."""
    ground = Image.new("RGB", figure.size, color)
    ground.paste(figure, mask=figure.getchannel("A"))
    return ground


def encode(picture: Image.Image, output_format: OutputFormat) -> bytes:
    """Lossless as PNG, lossy as WebP and JPEG. Raises: OSError for RGBA as JPEG, which has no transparency."""
    file = io.BytesIO()
    match output_format:
        case "png":
            picture.save(file, "PNG", compress_level=1)  # a third of the default's time, a tenth more bytes
        case "webp":
            picture.save(file, "WEBP", quality=WEBP_QUALITY, method=2)
        case "jpeg":
            picture.save(file, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
    return file.getvalue()


def thumbnail(picture: Image.Image) -> bytes:
    """WebP with transparency, at most `THUMBNAIL_SIDE` on its longer side."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=THUMBNAIL_QUALITY, method=2)
    return file.getvalue()

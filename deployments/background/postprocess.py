"""Turns a generated image into the client's files: exact size, cut-out, fill, thumbnail, encoding.

Independent of how the alpha was computed.
"""

import io
import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from deployments.types import OutputFormat, Pixels, PostprocessSpec

Alpha = npt.NDArray[np.uint8]
"""(h, w): 0 is background, 255 is foreground."""

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


def postprocess(pixels: Pixels, spec: PostprocessSpec, alpha: Alpha | None) -> tuple[bytes, bytes]:
    """The encoded image and its WebP thumbnail. `pixels` is (h, w, 3), `alpha` (h, w); both are resized to `spec`."""
    if spec.cuts_out and alpha is None:
        raise ValueError("this spec needs an alpha")
    if spec.cuts_out and alpha is not None:
        figure = fit(Image.fromarray(figure_colours(pixels, alpha)), spec.width, spec.height)
        figure.putalpha(fit(Image.fromarray(alpha), spec.width, spec.height))
        picture = without_hidden_colours(figure) if spec.bg_color is None else fill(figure, spec.bg_color)
    else:
        picture = fit(Image.fromarray(pixels), spec.width, spec.height)
    return encode(picture, spec.output_format), thumbnail(picture)


def decided(alpha: Alpha) -> Alpha:
    """(h, w): nearly transparent becomes transparent, nearly opaque opaque: matting networks are seldom certain."""
    levels = np.clip((np.arange(256) - CLEAR) * (255 / (SOLID - CLEAR)) + 0.5, 0, 255)
    return np.take(levels.astype(np.uint8), alpha)


def fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Resample to cover width x height exactly; crops both sides, or the bottom, as the face is at the top."""
    if picture.size == (width, height):
        return picture
    scale = max(width / picture.width, height / picture.height)
    kept_width, kept_height = width / scale, height / scale
    left = (picture.width - kept_width) / 2
    box = (max(0.0, left), 0.0, min(picture.width, left + kept_width), min(picture.height, kept_height))
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

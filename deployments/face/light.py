"""The light on a face: how much there is of it, and its colour.

The light is estimated, never how light the skin is. Its evidence is what looks alike on everybody: the whites of eyes,
teeth and the gloss of skin, then the edges of the whole photo (grey-edge, van de Weijer et al. 2007), and that skin of
all tones has chromaticities of one narrow locus (Storring et al. 1999). Without evidence the light counts as good.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from deployments.types import Box, Pixels

Linear = npt.NDArray[np.float32]
"""(..., 3): linear RGB with the primaries of sRGB, 0..1."""

Cast = tuple[float, float]
"""The colour of light: log R/G and log G/B of what is white, in linear RGB. White light has (0, 0)."""

LEVELS = np.arange(256) / 255
LINEAR = np.where(LEVELS <= 0.04045, LEVELS / 12.92, ((LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)
LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)
DARKEST = 1e-5  # in place of 0, below one level

PATCH = 96  # pixels a side, to which a face's box is brought
THUMBNAIL = 128  # pixels of the photo's longer side
FACE_HALF = (0.36, 0.44)  # of the box: half axes of an ellipse without hair, ears and background

READABLE = 24, 250  # levels of the brightest channel between which a pixel tells a hue
ENOUGH = 200  # such pixels
GREY_SPREAD = 0.027  # of the chromaticities' 90% about their median: sepia in JPEG has at most 0.025, colours 0.049

CAST_REACH, CAST_STEP = 1.0, 0.04  # of the casts that are compared
CAST_SPREAD = 0.2  # of cameras about white
EDGE_POWER, EDGE_SPREAD = 6, 0.12  # Minkowski norm of the grey-edge; its error on photos
WHITES_SHARE, WHITES_SPREAD, WHITES_WARMTH = 0.015, 0.2, 0.08  # the brightest pixels of a face; they are a bit warm
CLIPPED = 0.97  # from here on a channel tells nothing
SKIN_RED = 0.22, 1.15  # log R/G of skin in white light, palest to darkest
SKIN_LOCUS = 0.14, 0.48  # log G/B on it = 0.14 + 0.48 log R/G
SKIN_BAND, SKIN_SPREAD = 0.2, 0.07  # to both sides of the locus; how sharp the locus ends
SKIN_DOUBT = 40.0  # the most that an unlikely skin weighs: it may be painted, or no skin


@dataclass(frozen=True, slots=True)
class FaceLight:
    """Of a face on a photo. Luminances are linear, 1 being the photo's white, and without the cast."""

    skin: float  # of the lit side of the face
    whites: float  # of the brightest spots of the face: eyes, teeth, gloss
    brightest: float  # of the brightest hundredth of the photo
    surround: float  # that a fifth of the photo exceeds
    redness: float  # log R/G of the skin
    cast: Cast
    is_grey: bool  # the photo has no colours, or one, such as sepia


def face_light(pixels: Pixels, box: Box) -> FaceLight:
    """The light on the face at `box` of an (h, w, 3) photo. It takes about 5 ms."""
    patch, photo = face_patch(pixels, box), thumbnail(pixels)
    face = patch[_ellipse()]
    is_grey = _is_grey(patch)
    cast = _hue(np.median(face, axis=0)) if is_grey else light_colour(face, photo)
    face, photo = face / colour_of(cast), photo / colour_of(cast)
    skin, whites = np.quantile(face @ LUMINANCE, (0.7, 0.995))
    surround, brightest = np.quantile(photo @ LUMINANCE, (0.8, 0.99))
    return FaceLight(
        max(float(skin), DARKEST),
        max(float(whites), DARKEST),
        max(float(brightest), DARKEST),
        max(float(surround), DARKEST),
        _hue(_skin(face))[0],
        cast,
        is_grey,
    )


def face_patch(pixels: Pixels, box: Box) -> Linear:
    """(PATCH, PATCH, 3): the square about a box; beyond the photo its edge pixels repeat."""
    height, width = pixels.shape[:2]
    places = max(box[2] - box[0], box[3] - box[1], 1.0) * ((np.arange(2 * PATCH) + 0.5) / (2 * PATCH) - 0.5)
    columns = np.clip((box[0] + box[2]) / 2 + places, 0, width - 1).astype(int)
    rows = np.clip((box[1] + box[3]) / 2 + places, 0, height - 1).astype(int)
    sampled = LINEAR[pixels[rows[:, None], columns]]
    return np.asarray(sampled.reshape(PATCH, 2, PATCH, 2, 3).mean((1, 3)), np.float32)


def thumbnail(pixels: Pixels) -> Linear:
    """(h, w, 3): the photo with a longer side of at most THUMBNAIL pixels."""
    small = Image.fromarray(pixels)
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(LINEAR[np.asarray(small)], np.float32)


def light_colour(face: Linear, photo: Linear) -> Cast:
    """The likeliest colour of the light, given the pixels of a face (n, 3) and its photo (h, w, 3).

    Each cue has heavy tails: one that is wrong, as edges between coloured things may be, is outvoted.
    """
    steps = np.arange(-CAST_REACH, CAST_REACH + CAST_STEP / 2, CAST_STEP)
    red, blue = np.meshgrid(steps, steps, indexing="ij")
    whites_red, whites_blue = _hue(_whites(face))
    edges_red, edges_blue = _hue(_edges(photo))
    doubt = (
        np.log1p((red**2 + blue**2) / CAST_SPREAD**2 / 2)
        + np.log1p(((red - edges_red) ** 2 + (blue - edges_blue) ** 2) / EDGE_SPREAD**2 / 2)
        + np.log1p(
            ((red - whites_red + WHITES_WARMTH) ** 2 + (blue - whites_blue + WHITES_WARMTH) ** 2) / WHITES_SPREAD**2 / 2
        )
        + _unlike_skin(_skin(face), red, blue) / 2
    )
    row, column = np.unravel_index(doubt.argmin(), doubt.shape)
    return float(steps[row]), float(steps[column])


def colour_of(cast: Cast) -> Linear:
    """(3,): linear RGB of a light with green 1."""
    return np.array([math.exp(cast[0]), 1.0, math.exp(-cast[1])], np.float32)


def _unlike_skin(skin: Linear, red: npt.NDArray[np.float64], blue: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How far skin is from its locus if the light is of these colours, in squares of SKIN_SPREAD."""
    skin_red, skin_blue = _hue(skin)
    red, blue = skin_red - red, skin_blue - blue
    low, high = SKIN_RED
    locus = SKIN_LOCUS[0] + SKIN_LOCUS[1] * np.clip(red, low, high)
    beyond = np.maximum(0, low - red) ** 2 + np.maximum(0, red - high) ** 2
    far = (beyond + np.maximum(0, abs(blue - locus) - SKIN_BAND) ** 2) / SKIN_SPREAD**2
    return np.asarray(far / (1 + far / SKIN_DOUBT))


def _hue(colour: Linear) -> Cast:
    red, green, blue = (math.log(max(float(channel), DARKEST)) for channel in colour)
    return red - green, green - blue


def _skin(face: Linear) -> Linear:
    """The colour of the brighter half of a face (n, 3), without its gloss."""
    light = face @ LUMINANCE
    middle, high = np.quantile(light, (0.5, 0.9))
    return np.asarray(np.median(face[(light >= middle) & (light <= high)], axis=0))


def _whites(face: Linear) -> Linear:
    light = face @ LUMINANCE
    return np.asarray(face[light >= np.quantile(light, 1 - WHITES_SHARE)].mean(0))


def _edges(photo: Linear) -> Linear:
    """The mean gradient of each channel of (h, w, 3), by the Minkowski norm; clipped pixels do not count."""
    padded = np.pad(photo, ((2, 2), (2, 2), (0, 0)), mode="edge")
    smooth = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    smooth = (smooth[:, :-2] + 2 * smooth[:, 1:-1] + smooth[:, 2:]) / 4
    down, across = smooth[2:, 1:-1] - smooth[:-2, 1:-1], smooth[1:-1, 2:] - smooth[1:-1, :-2]
    steep = np.hypot(down, across)[photo.max(2) < CLIPPED]
    if len(steep) == 0 or not steep.any():
        return np.ones(3, np.float32)
    scaled = steep / steep.max()  # a power of small numbers would be 0
    return np.asarray((scaled**EDGE_POWER).mean(0) ** (1 / EDGE_POWER))


def _is_grey(patch: Linear) -> bool:
    """Whether the pixels of a face and what is around it have one hue."""
    levels = np.interp(patch.reshape(-1, 3), LINEAR, np.arange(256))
    low, high = READABLE
    brightest = levels.max(1)
    readable = levels[(brightest > low) & (brightest < high)]
    if len(readable) < ENOUGH:
        return False
    shares = readable / readable.sum(1, keepdims=True)
    return float(np.quantile(abs(shares - np.median(shares, axis=0)).max(1), 0.9)) < GREY_SPREAD


def _ellipse() -> npt.NDArray[np.bool_]:
    down, across = (np.mgrid[:PATCH, :PATCH] + 0.5) / PATCH - 0.5
    return np.asarray((across / FACE_HALF[0]) ** 2 + (down / FACE_HALF[1]) ** 2 < 1)

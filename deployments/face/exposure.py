"""A face as good light would have shown it: what a model that reads the colours of skin and hair is given.

In good light nothing is changed, to the last bit: skin that is dark because it is dark stays so.
"""

import math
from dataclasses import dataclass

import numpy as np

from deployments.face.light import LINEAR, LUMINANCE, SKIN_LOCUS, Cast, FaceLight, colour_of, face_light
from deployments.types import Box, Pixels

# Luminance of the brightest spots of a face in good light. On light skin that is nearly the skin's. On dark skin eyes
# may be half closed, and less light is sure to be lacking, unless the whole photo is dark.
WHITES_ON_LIGHT, WHITES_ON_DARK = 0.62, 0.36
WHITES_OF_DARK_PHOTO = 0.7, 0.5
DARK_PHOTO = 0.15, 0.35  # luminance of what is brightest: all is dark; something is well lit
LIGHT_SKIN, DARK_SKIN = 2.0, 4.0  # whites over skin
LIGHT_RED, DARK_RED = 0.6, 0.9  # log R/G of skin: the redder, the likelier dark, whites or not
GOOD_LIGHT, POOR_LIGHT = 1.45, 2.1  # times the light that is there: less is left alone, more made up for in full
MAX_GAIN = 48.0
SHARE_OF_DARK_PHOTO = 0.75  # of what red skin without whites may lack; amid a bright photo it counts as dark
WHITE_LIGHT, COLOURED_LIGHT = 0.18, 0.34  # length of a cast: less is left alone, more taken away in full
SKIN_TONES = (0.05, 0.6), (0.85, 0.42)  # luminance and log R/G of dark and of light skin, to colour a grey photo
SHOULDER = 0.8  # added light brings luminances above only near to white


@dataclass(frozen=True, slots=True)
class Correction:
    """What a photo lacks: `gain` times the light, without `cast`; a grey photo also the hue of skin."""

    gain: float = 1.0
    cast: Cast = (0.0, 0.0)
    skin_hue: Cast | None = None


UNCHANGED = Correction()


def in_good_light(crop: Pixels, photo: Pixels, box: Box) -> Pixels:
    """A crop (h, w, 3) of the face at `box` of a photo, as good light would have shown it."""
    return corrected(crop, correction_of(face_light(photo, box)))


def correction_of(light: FaceLight) -> Correction:
    """What is to be made up for; UNCHANGED in good light."""
    gain = light_lacking(light)
    gain **= _ramp(math.log(gain), math.log(GOOD_LIGHT), math.log(POOR_LIGHT))
    share = 1.0 if light.is_grey else _ramp(math.hypot(*light.cast), WHITE_LIGHT, COLOURED_LIGHT)
    red, blue = light.cast
    return Correction(gain, (share * red, share * blue), _skin_hue(light.skin * gain) if light.is_grey else None)


def light_lacking(light: FaceLight) -> float:
    """How many times more light would show the face as good light does; from 1 on.

    The whites of a face are as bright as the light is. Where nothing on it is brighter than its skin, that is light
    skin, or dark skin whose whites are not seen: there the skin's redness and a photo that is dark as a whole decide.
    """
    brightest = max(light.whites, light.brightest)
    seen = _ramp(light.whites / light.skin, LIGHT_SKIN, DARK_SKIN)  # that whites stand out
    red, dark_photo = _ramp(light.redness, LIGHT_RED, DARK_RED), 1 - _ramp(brightest, *DARK_PHOTO)
    on_light, on_dark = (
        usual + dark_photo * (at_most - usual)
        for usual, at_most in zip((WHITES_ON_LIGHT, WHITES_ON_DARK), WHITES_OF_DARK_PHOTO, strict=True)
    )
    whites = on_light + max(seen, red) * (on_dark - on_light)
    lacking = min(max(whites / light.whites, 1.0), MAX_GAIN)
    return float(lacking ** (1 - red * (1 - seen) * (1 - SHARE_OF_DARK_PHOTO * dark_photo)))


def corrected(crop: Pixels, correction: Correction) -> Pixels:
    """(h, w, 3) -> the same shape; the very same picture where nothing is to be corrected."""
    if correction == UNCHANGED:
        return crop
    linear = LINEAR[crop] / colour_of(correction.cast) * np.float32(correction.gain)
    if correction.skin_hue is not None:
        hue = colour_of(correction.skin_hue)
        linear = (linear @ LUMINANCE)[..., None] * hue / (hue @ LUMINANCE)
    over = np.maximum(linear - SHOULDER, 0) / (1 - SHOULDER)
    linear = np.where(over > 0, SHOULDER + (1 - SHOULDER) * (1 - np.exp(-over)), linear)
    return np.asarray(np.interp(linear, LINEAR, np.arange(256)).round(), np.uint8)


def _skin_hue(luminance: float) -> Cast:
    """The commonest hue of skin of a luminance."""
    (dark, light), (dark_red, light_red) = SKIN_TONES
    red = float(np.interp(math.log(luminance), (math.log(dark), math.log(light)), (dark_red, light_red)))
    return red, SKIN_LOCUS[0] + SKIN_LOCUS[1] * red


def _ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, smooth between."""
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    return share * share * (3 - 2 * share)

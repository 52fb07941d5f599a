"""Flat vector art: each part in a few plain tones with clean edges, no gradient, and the person's far half in shade."""

import numpy as np
from PIL import ImageFilter

from deployments.embedded.training.renderer.parts import (
    BACKGROUND,
    BEARD,
    BROW,
    FRAME,
    HAIR,
    HAT,
    IRIS,
    LENS,
    LIPS,
    PARTS,
    SCLERA,
    SKIN,
    TEETH,
)  # fmt: skip
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.renderer.shaders.surface import (
    CLOTHES,
    Array,
    Mask,
    Surface,
    as_array,
    as_picture,
    blurred,
    blurred_within,
    colour_array,
    few_tones,
    luma,
    saturated,
)

TONES = {BACKGROUND: 5, CLOTHES: 6, FRAME: 1, LENS: 2, BROW: 1, IRIS: 2, SCLERA: 1, LIPS: 2, TEETH: 2}
SKIN_SHADE, HAIR_SHADE = 0.8, 0.86  # of a part's usual brightness: where its darker tone begins
LINE = 0.82  # of the brightness around: below it is a line, as of a nose
SHADE = np.array([0.80, 0.76, 0.80], dtype=np.float32)  # of a tone's colour
LEAST = 0.13  # luma of hair and clothes, so that they are seen on black
LIVELY = 1.15  # saturation


def flat_vector(surface: Surface, portrait: Portrait) -> tuple[Array, Array]:
    """Backgrounds are laid out in five tones at most: a plain one, and so a black one, stays as it is."""
    plain = as_array(as_picture(surface.colours).filter(ImageFilter.MedianFilter(3)))
    fine = surface.part(*range(BROW, PARTS))
    colours = np.where(fine[..., None], surface.colours, plain)
    colours = few_tones(colours, surface.parts, TONES)
    soft = blurred_within(surface.colours, surface.parts, surface.pixels(3.0), [SKIN, HAIR, BEARD, HAT])
    for part in (HAIR, BEARD, HAT):
        inside = surface.part(part)
        if inside.any():
            usual = np.percentile(surface.colours[inside], 65, axis=0).astype(np.float32)
            dark = luma(soft[inside]) < HAIR_SHADE * luma(usual)
            colours[inside] = np.where(dark[:, None], usual * SHADE, usual)
    skin = surface.part(SKIN)
    colours[skin] = skin_tones(surface, soft, colour_array(portrait.skin))[skin]
    colours = np.where(far_half(surface)[..., None], colours * SHADE, colours)
    too_dark = (LEAST - luma(colours)[..., None]).clip(0)
    lifted = saturated(colours, LIVELY) + too_dark * surface.part(HAIR, BEARD, HAT, CLOTHES)[..., None]
    return blurred(lifted.clip(0, 1).astype(np.float32), surface.pixels(0.7)), surface.alpha


def skin_tones(surface: Surface, soft: Array, usual: Array) -> Array:
    """The skin's usual colour, a darker one in its shadows, and a third for lines as of nose and wrinkles."""
    wide = blurred_within(soft, surface.parts, surface.pixels(4.0), [SKIN])
    near = luma(blurred_within(surface.colours, surface.parts, surface.pixels(0.8), [SKIN]))
    tones = np.where((luma(wide) < SKIN_SHADE * luma(usual))[..., None], usual * SHADE, usual)
    return np.asarray(np.where((near < LINE * luma(wide))[..., None], usual * SHADE**2, tones), dtype=np.float32)


def far_half(surface: Surface) -> Mask:
    """The person right of the middle of the face."""
    x, _ = surface.places()
    face = surface.part(IRIS, BROW, LIPS)
    middle = float(np.broadcast_to(x, face.shape)[face].mean()) if face.any() else 128.0
    return np.asarray((surface.alpha > 0.5) & (x > middle))

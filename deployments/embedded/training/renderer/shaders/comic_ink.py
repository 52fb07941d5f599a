"""Comic ink: black outlines, a few strong colours, and shadows of dots in rows, as cheap print had them."""

import numpy as np
from PIL import ImageFilter
from scipy import ndimage

from deployments.embedded.training.renderer.parts import BACKGROUND, BEARD, HAIR, HAT, PARTS, SKIN
from deployments.embedded.training.renderer.portrait import Portrait, brightness
from deployments.embedded.training.renderer.shaders.surface import (
    CLOTHES,
    DARK,
    FINE,
    Array,
    Surface,
    as_array,
    as_picture,
    blurred,
    blurred_within,
    borders,
    few_tones,
    luma,
    mixed,
    saturated,
    step,
)

SCREEN = 16.0  # UNITS from dot to dot along a row, and from each row to the next but one
OUTLINE, INNER = 3.0, 1.8  # half the width of lines: about the person, and between parts
EDGE = 4.5  # how far a white edge goes beyond the person
SHADOW_REACH = 13.0  # how far from the person's right edge its shadow goes inwards
INK = np.array([0.03, 0.03, 0.05], dtype=np.float32)
WHITE = np.array([0.98, 0.97, 0.94], dtype=np.float32)
DOT = np.array([0.5, 0.45, 0.55], dtype=np.float32)  # of the colour that it is printed on
LARGE = (SKIN, HAIR, BEARD, HAT)  # clothes are of many colours: what is dark there is no shadow
TONES = {**dict.fromkeys(range(PARTS), 2), BACKGROUND: 5, CLOTHES: 6, SKIN: 1, HAIR: 1, BEARD: 1}
STRONG = 1.25, 1.06  # saturation and brightness


def comic_ink(surface: Surface, portrait: Portrait) -> tuple[Array, Array]:
    """Backgrounds are printed with dots of a darker tone, larger ones below; black stays black.

    Before a dark background, where black lines are not seen, the person has a white edge, as cut out with scissors;
    either kind of edge belongs to its alpha.
    """
    colours, light = flat_colours(surface), shading(surface)
    person = surface.alpha > 0.5
    _, y = surface.places()
    shadow = np.where(person, 2.6 * (0.92 - light) + far_side(surface), 0.15 + 0.35 * y / 256)
    shadow = np.where(surface.part(*FINE), 0, shadow).clip(0, 0.7).astype(np.float32)
    printed = mixed(colours, colours * DOT, step(shadow, screen(surface), 0.12))
    glossy = step(light, 1.22, 0.05) * surface.part(HAIR, HAT, BEARD)
    printed = mixed(printed, 0.6 * printed + 0.4, glossy)
    printed = mixed(printed, INK, ink(surface))
    outside = ndimage.distance_transform_edt(~person).astype(np.float32)
    on_dark = brightness(portrait.background) / 255 < DARK
    line = step(-outside, -surface.pixels(EDGE if on_dark else OUTLINE), 1.0) * ~person
    return mixed(printed, WHITE if on_dark else INK, line), np.maximum(surface.alpha, line)


def flat_colours(surface: Surface) -> Array:
    """Few tones a part, more saturated than they were."""
    plain = as_array(as_picture(surface.colours).filter(ImageFilter.MedianFilter(3)))
    plain = np.where(surface.part(*FINE)[..., None], surface.colours, plain)
    plain = few_tones(plain, surface.parts, TONES)
    return np.asarray((saturated(plain, STRONG[0]) * STRONG[1]).clip(0, 1))


def shading(surface: Surface) -> Array:
    """(n, n): how light each pixel is against the middle of its part; 1 in small parts."""
    light = luma(blurred_within(surface.colours, surface.parts, surface.pixels(2.5), LARGE))
    result = np.ones_like(light)
    for part in LARGE:
        inside = surface.parts == part
        if inside.any():
            result[inside] = light[inside] / max(float(np.median(light[inside])), 0.06)
    return result


def far_side(surface: Surface) -> Array:
    """(n, n) in 0..1: a shadow along the right edge of the person."""
    solid = blurred(surface.alpha, surface.pixels(SHADOW_REACH / 2))
    return np.asarray(1.5 * (0.75 - np.roll(solid, -round(surface.pixels(SHADOW_REACH)), 1))).clip(0)


def screen(surface: Surface) -> Array:
    """(n, n) a shadow shows where it is larger, which makes round dots; a faint one shows nowhere."""
    x, y = surface.places()
    turn = np.float32(2 * np.pi / SCREEN)
    return np.asarray(0.56 - 0.25 * (np.cos(turn * (x + y)) + np.cos(turn * (x - y))))


def ink(surface: Surface) -> Array:
    """(n, n) in 0..1: lines between the large parts, and the dark strokes of the drawing."""
    parts = np.where(surface.part(*range(BEARD, PARTS)) & ~surface.part(HAT), SKIN, surface.parts)
    near = ndimage.distance_transform_edt(~borders(parts)).astype(np.float32)
    lines = step(-near, -surface.pixels(INNER), 1.0) * (surface.alpha > 0.5)
    light = luma(surface.colours)
    strokes = 0.8 * blurred(light, surface.pixels(7.0)) - light
    bold = step(strokes, 0.05, 0.05) * surface.part(SKIN, HAIR)
    return np.maximum(lines, bold)

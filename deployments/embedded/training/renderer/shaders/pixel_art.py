"""Pixel art: 32 pixels across, few strong colours, and the smallest parts never lost."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

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
from deployments.embedded.training.renderer.portrait import Portrait, brightness
from deployments.embedded.training.renderer.shaders.surface import (
    CLOTHES,
    DARK,
    Array,
    Surface,
    colour_array,
    few_tones,
    luma,
    saturated,
)

T = TypeVar("T", bound=np.generic)
ACROSS = 32  # pixels: each is one cell of the generator's latents
WEIGHTS = {BACKGROUND: 1.0, CLOTHES: 1.0, SKIN: 1.0, HAIR: 1.15, BEARD: 1.3, FRAME: 1.8, LENS: 1.5, HAT: 1.1, BROW: 1.9,
           IRIS: 1.5, SCLERA: 2.3, LIPS: 2.2, TEETH: 2.0}  # fmt: skip
TONES = {**dict.fromkeys(range(PARTS), 1), BACKGROUND: 6, CLOTHES: 6, SKIN: 2, HAIR: 3, HAT: 3, LENS: 2, IRIS: 2}
STRONG = 1.2  # saturation
RIM = 0.62  # of the brightness of the person's outermost pixels


def pixel_art(surface: Surface, portrait: Portrait) -> tuple[Array, Array]:
    """Backgrounds in the same pixels, six colours at most: a plain one, and so a black one, stays as it is.

    The alpha is in the same pixels, too, each fully the person's or not at all. Its outermost pixels are darker before
    a light background. Raises: ValueError where the side is no multiple of ACROSS.
    """
    shares = np.stack([in_cells(surface.part(part).astype(np.float32)) for part in range(PARTS + 1)])
    seen = (shares * np.array([WEIGHTS[part] for part in range(PARTS + 1)], dtype=np.float32)[:, None, None]).argmax(0)
    colours = sampled(surface.colours)  # crisp backgrounds
    for part in range(PARTS + 1):
        there = (seen == part) & ((part != BACKGROUND) | (sampled(surface.alpha) > 0))
        if there.any():
            weight = surface.part(part).astype(np.float32)
            if part == BACKGROUND:
                weight *= (1 - surface.alpha) ** 8  # nothing of soft edges
            means = in_cells(surface.colours * weight[..., None]) / (in_cells(weight)[..., None] + 1e-6)
            colours[there] = means[there]
    white, dark = np.isin(seen, (SCLERA, TEETH))[..., None], (seen == IRIS)[..., None]
    colours = np.where(white, 0.3 * colours + 0.7, np.where(dark, 0.6 * colours, colours))
    skin = seen == SKIN
    usual = colour_array(portrait.skin)
    colours[skin] = usual * np.where(luma(colours[skin]) < 0.86 * luma(usual), 0.8, 1)[:, None]
    colours = few_tones(colours, seen.astype(np.uint8), TONES)
    person = seen != BACKGROUND
    if brightness(portrait.background) / 255 >= DARK:
        colours = np.where(
            (person & ~ndimage.binary_erosion(person, border_value=1))[..., None], RIM * colours, colours
        )
    strong = saturated(colours, STRONG).clip(0, 1).astype(np.float32)
    return enlarged(strong, surface.side), enlarged(person.astype(np.float32), surface.side)


def in_cells(values: Array) -> Array:
    """(n, n, ...) -> (ACROSS, ACROSS, ...): the means."""
    side = values.shape[0] // ACROSS
    return np.asarray(values.reshape(ACROSS, side, ACROSS, side, *values.shape[2:]).mean((1, 3)))


def sampled(values: NDArray[T]) -> NDArray[T]:
    """(n, n, ...) -> (ACROSS, ACROSS, ...): what is in the middle of each cell."""
    side = values.shape[0] // ACROSS
    return values[side // 2 :: side, side // 2 :: side].copy()


def enlarged(values: Array, side: int) -> Array:
    """(ACROSS, ACROSS, ...) -> (side, side, ...)."""
    return values.repeat(side // ACROSS, 0).repeat(side // ACROSS, 1)

"""Pencil: graphite on paper, contours and two layers of hatching, with a breath of colour."""

import numpy as np
from scipy import ndimage

from deployments.embedded.training.renderer.parts import BACKGROUND
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.renderer.shaders.surface import (
    FINE,
    Array,
    Surface,
    blurred,
    blurred_within,
    borders,
    luma,
    mixed,
    noise,
    step,
)

HATCH = 12.0  # UNITS from line to line, across
GRAPHITE = np.array([0.20, 0.20, 0.23], dtype=np.float32)
PAPER = np.array([0.965, 0.955, 0.93], dtype=np.float32)
TINT = 0.3  # of a colour's distance from grey
CROSSED = 0.55  # darkness from which a second layer crosses the first


def pencil(surface: Surface, portrait: Portrait) -> tuple[Array, Array]:
    """Drawn on paper: of a background the tint alone is left and, in scenes, faint contours; a black one is bare paper.

    Nobody expects a sketch on black, which is what the default prompt asks for.
    """
    x, y = surface.places()
    wobble = 1.6 * noise(surface.side, 9.0, 3)
    tone = luma(surface.colours)
    dark = ((1 - tone) * surface.alpha - 0.12).clip(0)
    first = step(dark, 0.16 + 0.74 * line_screen(x + y + wobble), 0.3)
    second = step(dark - CROSSED, 0.5 * line_screen(x - y + wobble), 0.2)
    hatching = np.maximum(0.55 * first, 0.62 * dark) + 0.4 * second + 0.35 * dark * surface.part(*FINE)
    grain = 1 + 0.12 * noise(surface.side, 1.0, 4)
    graphite = (np.maximum(hatching, contours(surface)) * grain).clip(0, 1)
    tint = (
        TINT
        * (surface.colours - tone[..., None])
        * (0.75 + 0.25 * np.cos(2 * np.pi / HATCH * (x + y + wobble)))[..., None]
    )
    paper = PAPER + tint + 0.006 * noise(surface.side, 1.0, 5)[..., None]
    return mixed(paper.astype(np.float32), GRAPHITE, graphite), surface.alpha


def line_screen(along: Array) -> Array:
    """In 0..1: hatching shows where the darkness is larger."""
    return np.asarray(0.5 - 0.5 * np.cos(along * np.float32(2 * np.pi / HATCH)))


def contours(surface: Surface) -> Array:
    """(n, n) in 0..1: the edges of parts, and strokes where the drawing is darker than around."""
    near = ndimage.distance_transform_edt(~borders(surface.parts)).astype(np.float32)
    light = luma(surface.colours)
    behind = luma(blurred_within(surface.colours, surface.parts, surface.pixels(5.0), [BACKGROUND]))
    around = np.where(surface.parts == BACKGROUND, behind, blurred(light, surface.pixels(5.0)))
    strokes = step(0.92 * around - light, 0.06, 0.1) * (0.25 + 0.75 * surface.alpha)
    return 0.85 * np.maximum(step(-near, -surface.pixels(1.5), 1.4), strokes)

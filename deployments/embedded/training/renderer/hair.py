"""What all drawn hair has in common: what a hat leaves of it, and where its sheen lies."""

import numpy as np
from PIL import Image, ImageChops

from deployments.embedded.training.renderer.drawing import FACE_X, GRID_X, GRID_Y, Array, Points, Sketch
from deployments.embedded.training.renderer.hats import BAND


def hair_mask(sketch: Sketch, outlines: tuple[Points, ...]) -> Image.Image:
    """What a hat leaves to be seen."""
    mask = sketch.mask(*(sketch.skull(outline) for outline in outlines))
    if sketch.person.hat == "none":
        return mask
    below = sketch.skull([(-120.0, BAND), (120.0, BAND), (120.0, 200.0), (-120.0, 200.0)])
    return ImageChops.multiply(mask, sketch.mask(below))


def crown(sketch: Sketch) -> tuple[Array, Array]:
    """Each shading cell's distance from the head's middle, 1 at the hair's rim, and its angle from the top."""
    (left, _), (_, top) = sketch.skull([(-52.0, 0.0), (0.0, -70.0)])
    u, v = (GRID_X - FACE_X) / (FACE_X - left), (GRID_Y - (sketch.face_y - 4)) / (sketch.face_y - top)
    return np.sqrt(u**2 + v**2), np.arctan2(u, -v)

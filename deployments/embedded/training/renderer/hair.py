"""Hair behind and in front of the head."""

import numpy as np
from PIL import Image, ImageChops

from deployments.embedded.training.renderer.drawing import (
    FACE_X,
    GRID_X,
    GRID_Y,
    UNITS,
    Array,
    Points,
    Sketch,
    darker,
    ellipse,
    faded,
    light_field,
    lighter,
    shaded,
    tinted,
)
from deployments.embedded.training.renderer.hair_styles import HairShape, hair_shape
from deployments.embedded.training.renderer.hats import BAND
from deployments.embedded.training.renderer.portrait import brightness


def shape_of(sketch: Sketch) -> HairShape:
    """The person's hair style, parted as the sign of `parting` says: negative is left in the picture."""
    return hair_shape(sketch.person.hair_style, sketch.person.parting < 0)


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


def hair_light(sketch: Sketch) -> Array:
    """Soft shading with a band of sheen around the crown, stronger on dark hair."""
    radius, angle = crown(sketch)
    field = light_field(sketch, FACE_X, sketch.face_y, 104, 112, 0.45 if sketch.look.cartoon else 0.9)
    if not sketch.look.cartoon:
        return field + strands(sketch, radius, angle)
    sheen = np.exp(-(((radius - 0.83) / 0.09) ** 2) - ((angle + 0.55) / 0.5) ** 2)
    return np.asarray(field + (0.3 - 0.12 * brightness(sketch.hair) / 255) * sheen)


def strands(sketch: Sketch, radius: Array, angle: Array) -> Array:
    """A photo's fine hair and its sheen."""
    rng = np.random.default_rng(sketch.person.texture)
    lines = sum(
        np.sin(angle * rng.uniform(10, 40) + radius * rng.uniform(-3, 3) + rng.uniform(0, 6.3)) for _ in range(4)
    )
    sheen = np.exp(-(((radius - 0.86) / 0.1) ** 2)) * (0.55 + 0.45 * np.cos(angle + 0.5))
    boost = 0.24 if sum(sketch.person.hair) > 200 else 0.14
    return np.asarray(boost * sheen + 0.035 * sketch.look.strands * lines)


def draw_back_hair(sketch: Sketch) -> None:
    """What lies behind the body and the head: drawn first."""
    mask = hair_mask(sketch, shape_of(sketch).back)
    sketch.fill(mask, tinted(darker(sketch.hair, 0.12), hair_light(sketch) - 0.05, 0.15))
    sketch.take_rim_light(mask, sketch.hair)


def draw_front_hair(sketch: Sketch, face: Image.Image) -> None:
    """Shaved parts, then the hair with its shadow on the face and its locks; a bald head gets a shine."""
    shape = shape_of(sketch)
    if sketch.person.hair_style == "bald" and sketch.person.hat == "none":
        shine = sketch.mask(sketch.skull(ellipse(-14, -44, 13, 6)))
        sketch.soften(shine, lighter(sketch.person.skin, 0.6), 5, 0.5, within=face)
    shaved = hair_mask(sketch, shape.shaved)
    sketch.fill(faded(shaved, 0.72), sketch.hair)
    mask = hair_mask(sketch, shape.front)
    shadow = ImageChops.offset(sketch.soft(mask, 4, 0.5), 0, round(5 * sketch.unit))
    sketch.fill(ImageChops.multiply(shadow, face), shaded(sketch.person.skin, 0.5), solid=False)
    sketch.fill(mask, tinted(sketch.hair, hair_light(sketch), 0.15))
    draw_locks(sketch, shape.locks, mask)
    for part in (shaved, mask):
        sketch.take_rim_light(part, sketch.hair)


def draw_locks(sketch: Sketch, locks: tuple[Points, ...], hair: Image.Image) -> None:
    """Broad soft grooves, each with a light beside it."""
    if not locks or not sketch.look.cartoon:
        return
    curves = [sketch.skull(lock) for lock in locks]
    glow = ImageChops.multiply(sketch.soft(sketch.line_mask(*curves, width=9), 2, 1.0), hair)
    up = round(-6 * sketch.side / UNITS)
    light = ImageChops.multiply(ImageChops.offset(glow, 0, up), hair)
    sketch.fill(faded(light, 0.4), lighter(sketch.hair, 0.22), solid=False)
    groove = ImageChops.multiply(sketch.soft(sketch.line_mask(*curves, width=5), 1.2, 0.55), hair)
    sketch.fill(groove, darker(sketch.hair, 0.45), solid=False)

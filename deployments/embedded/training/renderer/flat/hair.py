"""Hair of a flat drawing, behind and in front of the head, with fine strands by the person's texture."""

import numpy as np
from PIL import Image, ImageChops

from deployments.embedded.training.renderer.drawing import (
    FACE_X,
    Array,
    Sketch,
    darker,
    ellipse,
    faded,
    light_field,
    lighter,
    shaded,
    tinted,
)
from deployments.embedded.training.renderer.hair import crown, hair_mask
from deployments.embedded.training.renderer.hair_styles import HairShape


def draw_back_hair(sketch: Sketch, shape: HairShape) -> None:
    """What lies behind the body and the head: drawn first."""
    mask = hair_mask(sketch, shape.back)
    sketch.fill(mask, tinted(darker(sketch.hair, 0.12), hair_light(sketch) - 0.05, 0.15))


def draw_front_hair(sketch: Sketch, shape: HairShape, face: Image.Image) -> None:
    """Shaved parts, then the hair with its shadow on the face; a bald head gets a shine."""
    if sketch.person.hair_style == "bald" and sketch.person.hat == "none":
        shine = sketch.mask(sketch.skull(ellipse(-14, -44, 13, 6)))
        sketch.soften(shine, lighter(sketch.person.skin, 0.6), 5, 0.5, within=face)
    sketch.fill(faded(hair_mask(sketch, shape.shaved), 0.72), sketch.hair)
    mask = hair_mask(sketch, shape.front)
    shadow = ImageChops.offset(sketch.soft(mask, 4, 0.5), 0, round(5 * sketch.unit))
    sketch.fill(ImageChops.multiply(shadow, face), shaded(sketch.person.skin, 0.5), solid=False)
    sketch.fill(mask, tinted(sketch.hair, hair_light(sketch), 0.15))


def hair_light(sketch: Sketch) -> Array:
    """On the shading grid: soft shading, strands by the person's `texture`, and a sheen around the crown."""
    radius, angle = crown(sketch)
    rng = np.random.default_rng(sketch.person.texture)
    lines = sum(
        np.sin(angle * rng.uniform(10, 40) + radius * rng.uniform(-3, 3) + rng.uniform(0, 6.3)) for _ in range(4)
    )
    sheen = np.exp(-(((radius - 0.86) / 0.1) ** 2)) * (0.55 + 0.45 * np.cos(angle + 0.5))
    boost = 0.24 if sum(sketch.person.hair) > 200 else 0.14
    field = light_field(sketch, FACE_X, sketch.face_y, 104, 112, 0.9)
    return np.asarray(field + (boost * sheen + 0.035 * sketch.look.strands * lines))

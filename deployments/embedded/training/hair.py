"""Hair behind and before the head."""

import numpy as np
from PIL import Image, ImageChops

from deployments.embedded.training.drawing import (
    FACE_X,
    FACE_Y,
    GRID_X,
    GRID_Y,
    Array,
    Points,
    Sketch,
    darker,
    ellipse,
    light_field,
    lighter,
    mirrored,
    shifted,
    smooth,
    spline,
    tinted,
)
from deployments.embedded.training.head import face_outline


def hair_field(sketch: Sketch) -> Array:
    """A sheen around the crown and strands that run from it."""
    rng, strands = sketch.rng, sketch.look.strands
    u, v = (GRID_X - FACE_X) / 52, (GRID_Y - (FACE_Y - 4)) / 66
    radius, angle = np.sqrt(u**2 + v**2), np.arctan2(u, -v)
    lines = sum(
        np.sin(angle * rng.uniform(10, 60) + radius * rng.uniform(-3, 3) + rng.uniform(0, 6.3)) for _ in range(4)
    )
    sheen = np.exp(-(((radius - 0.86) / 0.1) ** 2)) * (0.55 + 0.45 * np.cos(angle + 0.5))
    field = light_field(sketch, FACE_X, FACE_Y, 74, 92, 0.9 * sketch.look.contrast)
    boost = 0.24 if sum(sketch.person.hair) > 200 else 0.14
    return np.asarray(field + boost * sheen + 0.035 * strands * lines)


def paint_hair(sketch: Sketch, mask: Image.Image, field: Array, dark: float = 0.0) -> None:
    sketch.fill(mask, tinted(darker(sketch.person.hair, dark), field, 0.15))


def draw_back_hair(sketch: Sketch) -> None:
    style, rng = sketch.person.hair_style, sketch.rng
    shapes: list[Points] = []
    if style == "bob":
        right = [
            (0.0, -64.0),
            (34.0, -56.0),
            (52.0, -26.0),
            (56.0, 10.0),
            (56.0, 46.0),
            (44.0, 56.0),
            (0.0, 50.0),
        ]
        shapes.append(spline(shifted(mirrored(right), FACE_X, FACE_Y)))
    elif style in ("long", "wavy"):
        wave = 5.0 if style == "wavy" else 0.0
        right = [(0.0, -64.0), (34.0, -56.0), (51.0, -26.0), (54 + wave, 8.0), (55 - wave, 34.0), (58 + wave, 60.0),
                 (58 - wave, 84.0), (60 + wave, 106.0), (44.0, 118.0), (24.0, 100.0), (0.0, 70.0)]  # fmt: skip
        shapes.append(spline(shifted(mirrored(right), FACE_X, FACE_Y)))
    elif style == "afro":
        for angle in np.linspace(150, 390, 17):
            x, y = FACE_X + 52 * np.cos(np.deg2rad(angle)), FACE_Y - 22 + 50 * np.sin(np.deg2rad(angle))
            shapes.append(ellipse(float(x), float(y), 15 + rng.uniform(-1, 3), 15 + rng.uniform(-1, 3)))
        shapes.append(ellipse(FACE_X, FACE_Y - 24, 54, 50))
    elif style == "bun":
        shapes.append(ellipse(FACE_X, FACE_Y - 72, 20, 18))
    if shapes:
        paint_hair(sketch, sketch.mask(*shapes), hair_field(sketch) - 0.10, 0.12)


def cap(top: float, side: float, hairline: Points, down: float) -> Points:
    """Hair over the skull: outer rim at `top` and `side` from the face's centre, inner rim along the hairline."""
    outer = [(-side, down), (-side - 0.5, -14.0), (-side * 0.86, -40.0), (-side * 0.5, -top * 0.95), (0.0, -top),
             (side * 0.5, -top * 0.95), (side * 0.86, -40.0), (side + 0.5, -14.0), (side, down)]  # fmt: skip
    return shifted(smooth(outer) + smooth(hairline), FACE_X, FACE_Y)


def draw_front_hair(sketch: Sketch) -> None:
    person, style, rng = sketch.person, sketch.person.hair_style, sketch.rng
    if style == "bald":
        shine = sketch.mask(ellipse(FACE_X - 12, FACE_Y - 46, 14, 6))
        sketch.fill(sketch.soft(shine, 5, 0.5), lighter(person.skin, 0.6), solid=False)
        return
    part = 20.0 * person.parting
    recede = 5.0 if person.age > 0.8 and person.gender == "man" else 0.0
    line = -38.0 - recede
    shapes: list[Points] = []
    if style in ("buzz", "bun"):
        inner = [
            (39.0, -6.0),
            (35.0, -28.0),
            (22.0, line - 2),
            (0.0, line - 4),
            (-22.0, line - 2),
            (-35.0, -28.0),
            (-39.0, -6.0),
        ]
        shapes.append(cap(60.0 if style == "buzz" else 63.0, 44.5, inner, -4.0))
    elif style == "parted":
        inner = [
            (40.0, 0.0),
            (36.0, -24.0),
            (part + 8, line + 4),
            (part, line - 6),
            (part - 14, line + 2),
            (-36.0, -24.0),
            (-40.0, 0.0),
        ]
        shapes.append(cap(68.0, 47.0, inner, 2.0))
    elif style == "quiff":
        inner = [
            (39.0, -2.0),
            (36.0, -26.0),
            (24.0, line),
            (0.0, line - 3),
            (-24.0, line),
            (-36.0, -26.0),
            (-39.0, -2.0),
        ]
        shapes.append(cap(66.0, 45.0, inner, 0.0))
        lean = 10.0 * person.parting
        tuft = [
            (-34.0, -40.0),
            (-36 + lean, -64.0),
            (-8 + lean, -80.0),
            (26 + lean, -76.0),
            (38.0, -54.0),
            (30.0, -38.0),
            (0.0, -42.0),
        ]
        shapes.append(spline(shifted(tuft, FACE_X, FACE_Y)))
    elif style == "fringe":
        inner = [
            (41.0, 4.0),
            (37.0, -16.0),
            (24.0, -25.0),
            (8.0, -22.0),
            (-8.0, -24.0),
            (-24.0, -22.0),
            (-37.0, -16.0),
            (-41.0, 4.0),
        ]
        shapes.append(cap(68.0, 48.0, inner, 8.0))
    elif style in ("curly", "afro"):
        inner = [
            (39.0, -6.0),
            (34.0, -28.0),
            (20.0, line + 2),
            (0.0, line),
            (-20.0, line + 2),
            (-34.0, -28.0),
            (-39.0, -6.0),
        ]
        shapes.append(cap(66.0, 46.0, inner, -2.0))
        for angle in np.linspace(188, 352, 12):
            x, y = FACE_X + 42 * np.cos(np.deg2rad(angle)), FACE_Y - 22 + 40 * np.sin(np.deg2rad(angle))
            shapes.append(
                ellipse(float(x + rng.normal(0, 1)), float(y), 10 + rng.uniform(0, 3), 10 + rng.uniform(0, 3))
            )
        for x in np.linspace(-28, 28, 6):
            y = FACE_Y - 42 + abs(x) * 0.3 + rng.uniform(-2, 2)
            shapes.append(ellipse(float(FACE_X + x), float(y), 8, 7))
    else:
        low = {"bob": 48.0, "long": 62.0, "wavy": 62.0}[style]
        fringe = person.brows > 0.55
        middle = [(24.0, -24.0), (6.0, -22.0), (-10.0, -24.0), (-24.0, -22.0)] if fringe else [
            (part + 16, -34.0), (part, line - 6), (part - 16, -34.0)]  # fmt: skip
        inner = [
            (43.0, low),
            (39.0, 14.0),
            (37.0, -14.0),
            *middle,
            (-37.0, -14.0),
            (-39.0, 14.0),
            (-43.0, low),
        ]
        shapes.append(cap(68.0, 50.0, inner, low))
    mask = sketch.mask(*shapes)
    under = sketch.soft(mask, 5, 0.42)
    face = sketch.mask(face_outline(sketch))
    below = ImageChops.multiply(ImageChops.offset(under, 0, round(4 * sketch.unit)), face)
    sketch.fill(below, darker(person.skin, 0.55), solid=False)
    paint_hair(sketch, mask, hair_field(sketch))

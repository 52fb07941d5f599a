"""The parts of the figure, drawn back to front."""

import numpy as np
from PIL import Image, ImageChops

from deployments.embedded.training.drawing import (
    GRID_X,
    GRID_Y,
    Array,
    Points,
    Sketch,
    arc,
    bump,
    darker,
    ellipse,
    lighter,
    mirrored,
    shifted,
    spline,
    tinted,
)
from deployments.embedded.training.portrait import NAMED_COLOURS, between

FACE_X, FACE_Y = 128.0, 117.0


def draw_figure(sketch: Sketch) -> None:
    draw_back_hair(sketch)
    draw_body(sketch)
    draw_ears(sketch)
    face = draw_face(sketch)
    draw_beard(sketch, face)
    draw_eyes(sketch)
    draw_nose(sketch)
    draw_mouth(sketch)
    draw_front_hair(sketch)
    draw_brows(sketch)
    draw_glasses(sketch)


def face_outline(sketch: Sketch) -> Points:
    person = sketch.person
    long = 54 + 6 * person.face_length
    jaw = 25 + 9 * person.jaw
    right = [
        (0.0, -57.0),
        (26.0, -50.0),
        (40.0, -28.0),
        (42.5, -4.0),
        (40.0, 18.0),
        (jaw + 2, long * 0.66),
        (jaw * 0.52, long * 0.93),
        (0.0, long + 1),
    ]
    return shifted(spline(mirrored(right)), FACE_X, FACE_Y)


def feature_x(sketch: Sketch, x: float) -> float:
    """Features slide sideways as the head turns, the far side less."""
    yaw = sketch.person.yaw
    return FACE_X + x * (1 - 0.06 * abs(yaw)) + 5.0 * yaw


def light_field(sketch: Sketch, x: float, y: float, wide: float, high: float, depth: float) -> Array:
    """Lambert-like shading of an egg: bright towards the light, dark at the rim."""
    u, v = (GRID_X - x) / wide, (GRID_Y - y) / high
    radius = np.sqrt(u**2 + v**2)
    lx, ly = sketch.look.light
    field = 1.0 + depth * (0.32 * (u * lx + v * ly) - 0.55 * np.clip(radius - 0.45, 0, 1.2) ** 1.6)
    return np.asarray(field)


# --- body -----------------------------------------------------------------------------------------------------


def draw_body(sketch: Sketch) -> None:
    person = sketch.person
    broad = 82 if person.gender == "man" else 68
    neck = 21 if person.gender == "man" else 16
    depth = sketch.look.contrast
    skin_mask = sketch.mask(
        spline(
            shifted(mirrored([(0, 140), (neck, 142), (neck, 186), (neck + 26, 206), (0, 244)]), FACE_X, 0)
        ),
        head=False,
    )
    field = light_field(sketch, FACE_X, 190, 60, 70, 0.8 * depth)
    field -= 0.38 * depth * bump(FACE_X - 3, 177, 30, 12)
    sketch.fill(skin_mask, tinted(person.skin, field))
    draw_clothes(sketch, broad, neck)


def draw_clothes(sketch: Sketch, broad: float, neck: float) -> None:
    person = sketch.person
    colour = NAMED_COLOURS[person.clothes_name]
    if person.clothes_name == "black":
        colour = (46, 46, 52)
    dip = {"t-shirt": 208, "v-neck": 228, "shirt": 216, "hoodie": 206, "blazer": 236}[person.clothes]
    shoulders = [
        (0.0, float(dip)),
        (neck * 0.7, dip - (14 if person.clothes == "v-neck" else 6)),
        (neck + 5.0, 190.0),
        (broad * 0.62, 203.0),
        (broad * 0.92, 214.0),
        (broad + 12.0, 240.0),
        (broad + 18.0, 276.0),
        (0.0, 280.0),
    ]
    torso = sketch.mask(spline(shifted(mirrored(shoulders), FACE_X, 0)), head=False)
    depth = sketch.look.contrast
    field = light_field(sketch, FACE_X, 236, broad + 30, 66, depth) + 0.10 * bump(FACE_X - 40, 214, 26, 12)
    field -= 0.22 * (bump(FACE_X + broad * 0.72, 256, 7, 30) + bump(FACE_X - broad * 0.72, 256, 7, 30))
    sketch.fill(torso, tinted(colour, field, 0.0))
    trim = darker(colour, 0.28) if sum(colour) > 150 else lighter(colour, 0.16)
    if person.clothes == "t-shirt":
        sketch.stroke(shifted(arc(0, 189, neck + 5, 20, 8, 172), FACE_X, 0), trim, 3.2, head=False)
    elif person.clothes == "v-neck":
        sketch.stroke(
            [(FACE_X - neck - 4, 192), (FACE_X, 229), (FACE_X + neck + 4, 192)], trim, 3.2, head=False
        )
    elif person.clothes == "hoodie":
        hood = [(neck - 2, 186), (neck + 15, 186), (neck + 20, 200), (10, 224), (2, 214), (neck - 3, 198)]
        for side in (-1, 1):
            flap = spline([(FACE_X + side * x, float(y)) for x, y in hood])
            sketch.fill(sketch.mask(flap, head=False), tinted(colour, field + 0.06, 0.0))
            sketch.stroke([(FACE_X + side * 9, 222), (FACE_X + side * 10, 250)], trim, 2.4, head=False)
    else:
        draw_collar(sketch, neck, trim)


def draw_collar(sketch: Sketch, neck: float, trim: tuple[int, int, int]) -> None:
    person = sketch.person
    colour = NAMED_COLOURS[person.clothes_name]
    blazer = person.clothes == "blazer"
    if blazer:
        inner: list[tuple[float, float]] = [(FACE_X - neck - 3, 194), (FACE_X + neck + 3, 194), (FACE_X, 262)]
        sketch.fill(sketch.mask(inner, head=False), (236, 236, 238))
        sketch.shape_body(
            [(FACE_X - neck + 2, 196), (FACE_X + neck - 2, 196), (FACE_X, 224)], darker(person.skin, 0.1)
        )
        lapel = darker(colour, 0.2) if sum(colour) > 150 else lighter(colour, 0.14)
        for side in (-1, 1):
            points = [(neck - 1, 186), (neck + 14, 206), (neck + 8, 224), (4, 258), (0, 256), (neck - 1, 206)]
            sketch.shape_body([(FACE_X + side * x, float(y)) for x, y in points], lapel)
        return
    collar = lighter(colour, 0.22) if sum(colour) < 620 else darker(colour, 0.1)
    sketch.stroke([(FACE_X, 218), (FACE_X, 258)], trim, 1.6, head=False)
    for side in (-1, 1):
        points = [(neck - 2, 182), (neck + 12, 196), (neck - 1, 220), (1, 212)]
        sketch.shape_body([(FACE_X + side * x, float(y)) for x, y in points], collar)
        sketch.stroke([(FACE_X + side * x, float(y)) for x, y in points[1:]], trim, 1.3, head=False)


# --- head -----------------------------------------------------------------------------------------------------


def draw_ears(sketch: Sketch) -> None:
    person = sketch.person
    for side in (-1, 1):
        x = FACE_X + side * (42.5 - 2.5 * side * person.yaw)
        sketch.fill(sketch.mask(ellipse(x, FACE_Y + 6, 8, 12.5)), darker(person.skin, 0.08))
        sketch.shape(ellipse(x + side * 1.0, FACE_Y + 6, 3.4, 7.5), darker(person.skin, 0.24))


def draw_face(sketch: Sketch) -> Image.Image:
    person, depth = sketch.person, sketch.look.contrast
    face = sketch.mask(face_outline(sketch))
    x = feature_x(sketch, 0)
    field = light_field(sketch, x, FACE_Y, 46, 62, depth)
    field += 0.10 * bump(x - 3, FACE_Y - 30, 22, 11) + 0.12 * bump(x - 2, FACE_Y + 8, 5, 16)
    for side in (-1, 1):
        field += 0.12 * bump(feature_x(sketch, side * 22), FACE_Y + 17, 11, 8)
        field -= 0.30 * depth * bump(feature_x(sketch, side * 18), FACE_Y - 4, 15, 10)
    field -= 0.10 * depth * bump(x, FACE_Y + 47, 12, 4) + 0.12 * depth * bump(FACE_X, FACE_Y - 48, 40, 12)
    sketch.fill(face, tinted(person.skin, field))
    blush = between(person.skin, (226, 84, 78), 0.5)
    strength = 0.34 if person.gender == "woman" else 0.2
    for side in (-1, 1):
        cheek = sketch.mask(ellipse(feature_x(sketch, side * 25), FACE_Y + 19, 10, 7))
        sketch.fill(ImageChops.multiply(sketch.soft(cheek, 6, strength), face), blush, solid=False)
    if person.age > 0.75:
        draw_wrinkles(sketch)
    return face


def draw_wrinkles(sketch: Sketch) -> None:
    line = darker(sketch.person.skin, 0.2)
    for side in (-1, 1):
        x = feature_x(sketch, side * 21)
        sketch.stroke(
            [(x - side * 8, FACE_Y + 21), (x - side * 2, FACE_Y + 28), (x - side * 1, FACE_Y + 35)], line, 1.0
        )
    for y in (-36, -31):
        sketch.stroke(arc(feature_x(sketch, 0), FACE_Y + y + 6, 16, 6, 220, 320), line, 0.9)


def draw_beard(sketch: Sketch, face: Image.Image) -> None:
    person = sketch.person
    if person.beard == "none":
        return
    x, colour = feature_x(sketch, 0), darker(person.hair, 0.12)
    mouth = FACE_Y + 37
    shapes: list[Points] = []
    if person.beard in ("full", "stubble"):
        long = 60 + 6 * person.face_length + (5 if person.beard == "full" else -1)
        right = [(0.0, 24.5), (11.0, 25.0), (20.0, 32.0), (33.0, 14.0), (46.0, -2.0), (46.0, 26.0)]
        right += [(36.0, long * 0.75), (18.0, long * 0.98), (0.0, long + 1)]
        shapes.append(spline(shifted(mirrored(right), x, FACE_Y)))
    if person.beard == "goatee":
        right = [(0.0, 25.0), (12.0, 27.0), (17.0, 38.0), (15.0, 52.0), (0.0, 63.0)]
        shapes.append(spline(shifted(mirrored(right), x, FACE_Y)))
    if person.beard == "moustache":
        right = [(0.0, 24.5), (10.0, 26.0), (20.0, 34.0), (10.0, 33.0), (0.0, 31.0)]
        shapes.append(spline(shifted(mirrored(right), x, FACE_Y)))
    mask = sketch.mask(*shapes)
    if person.beard == "stubble":
        mask = ImageChops.multiply(mask, face)
        sketch.fill(ImageChops.multiply(sketch.soft(mask, 4, 0.42), face), colour, solid=False)
        return
    if person.beard == "full":
        hole = sketch.mask(ellipse(x, mouth + 1, 15, 5.5 + 1.5 * (person.expression == "laughing")))
        mask = ImageChops.subtract(mask, hole)
    below = sketch.mask(ellipse(FACE_X, FACE_Y + 46, 44, 34))
    mask = ImageChops.multiply(mask, ImageChops.lighter(face, below))
    field = light_field(sketch, x, FACE_Y + 20, 50, 52, 0.9) + 0.05
    sketch.fill(mask, tinted(colour, field))


def draw_eyes(sketch: Sketch) -> None:
    person, woman = sketch.person, sketch.person.gender == "woman"
    scale = sketch.look.eye_scale
    wide = (8.6 + 2.0 * person.eye_size + (0.8 if woman else 0)) * (0.88 + 0.12 * scale)
    high = (5.2 + 1.6 * person.eye_size + (0.8 if woman else 0)) * scale
    if person.expression == "laughing":
        high *= 0.82
    lid = darker(between(person.skin, person.hair, 0.3), 0.78)
    for side in (-1, 1):
        x, y = feature_x(sketch, side * 18.5), FACE_Y - 2.0
        right = spline([(x - wide, y + 0.8), (x - wide * 0.45, y - high * 0.85), (x + wide * 0.4, y - high * 0.9),
                        (x + wide, y), (x + wide * 0.45, y + high * 0.8), (x - wide * 0.4, y + high * 0.82)])  # fmt: skip
        white = sketch.mask(right)
        sketch.fill(white, between((246, 244, 242), person.skin, 0.22), solid=False)
        iris = min(high * 0.98, 6.4)
        look_x = x + 1.6 * person.yaw
        disc = ImageChops.multiply(sketch.mask(ellipse(look_x, y, iris, iris)), white)
        sketch.fill(disc, darker(person.eyes, 0.25), solid=False)
        disc = ImageChops.multiply(sketch.mask(ellipse(look_x, y + 0.6, iris * 0.75, iris * 0.75)), white)
        sketch.fill(disc, person.eyes, solid=False)
        sketch.shape(ellipse(look_x, y, iris * 0.5, iris * 0.5), (14, 10, 12))
        sketch.shape(ellipse(look_x - 1.7, y - 1.9, 1.4, 1.4, 10), (255, 255, 255))
        upper = [
            (x - wide, y + 0.8),
            (x - wide * 0.45, y - high * 0.88),
            (x + wide * 0.4, y - high * 0.92),
            (x + wide, y),
        ]
        sketch.stroke(smooth(upper), lid, 2.2 if woman else 1.7)
        if woman:
            tip = x + side * wide
            sketch.stroke([(tip, y), (tip + side * 3.0, y - 3.0)], lid, 1.6)
        sketch.stroke(arc(x, y - 1, wide * 1.02, high * 1.55, 215, 325), darker(person.skin, 0.3), 0.9)
        sketch.stroke(arc(x, y + 1, wide * 0.95, high * 1.25, 40, 140), darker(person.skin, 0.2), 0.8)


def smooth(points: Points, steps: int = 6) -> Points:
    """Open curve through the points."""
    padded = [points[0], *points, points[-1]]
    out: Points = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for t in np.linspace(0, 1, steps, endpoint=False):
            out.append(
                tuple(  # type: ignore[arg-type]
                    float(
                        0.5
                        * (
                            2 * q
                            + (r - p) * t
                            + (2 * p - 5 * q + 4 * r - s) * t**2
                            + (3 * q - p - 3 * r + s) * t**3
                        )
                    )
                    for p, q, r, s in zip(a, b, c, d, strict=True)
                )
            )
    return [*out, points[-1]]


def draw_brows(sketch: Sketch) -> None:
    person = sketch.person
    colour = darker(person.hair, 0.35)
    if sum(person.hair) > 480:
        colour = darker(person.hair, 0.42)
    thick = (2.0 + 2.4 * person.brows) * (1.0 if person.gender == "man" else 0.7)
    lift = {"serious": -2.0, "neutral": 0.0, "smiling": 1.0, "laughing": 2.5}[person.expression]
    frown = 2.2 if person.expression == "serious" else 0.0
    for side in (-1, 1):
        y = FACE_Y - 17.0 - lift
        points = [
            (feature_x(sketch, side * 8.5), y + 1.5 + frown),
            (feature_x(sketch, side * 17), y - 2.0),
            (feature_x(sketch, side * 24), y - 1.2),
            (feature_x(sketch, side * 30.5), y + 3.0),
        ]
        sketch.stroke(smooth(points[:3] + points[3:]), colour, thick)


def draw_nose(sketch: Sketch) -> None:
    person, depth = sketch.person, sketch.look.contrast
    x, y = feature_x(sketch, 0) + 2.5 * person.yaw, FACE_Y + 20.0
    wide = 7.0 + 3.0 * person.nose_size
    shade, deep = darker(person.skin, 0.2 + 0.1 * depth), darker(person.skin, 0.5)
    ridge = sketch.mask(spline([(x + 3, FACE_Y - 6), (x + 5, y - 6), (x + wide, y + 2), (x + 2, y - 2)]))
    sketch.fill(sketch.soft(ridge, 2.5, 0.55), shade, solid=False)
    ball = sketch.mask(ellipse(x, y + 3, wide, 3.6))
    sketch.fill(sketch.soft(ball, 2.2, 0.6), shade, solid=False)
    for side in (-1, 1):
        sketch.shape(ellipse(x + side * wide * 0.48, y + 2.6, 2.3, 1.3, 12), deep)
        sketch.stroke(
            arc(x + side * wide * 0.72, y, 3.2, 4.2, *((-60, 70) if side > 0 else (110, 240))), shade, 1.2
        )
    shine = sketch.mask(ellipse(x - 1.5, y - 2.5, 2.6, 2.2))
    sketch.fill(sketch.soft(shine, 1.6, 0.5), lighter(person.skin, 0.5), solid=False)


def draw_mouth(sketch: Sketch) -> None:
    person = sketch.person
    woman = person.gender == "woman"
    x, y = feature_x(sketch, 0) + 1.0 * person.yaw, FACE_Y + 37.0
    lip = between(person.skin, (186, 50, 60) if woman else (160, 66, 60), 0.55 if woman else 0.38)
    line = darker(lip, 0.5)
    full = 2.0 + 2.2 * person.lips + (0.8 if woman else 0.0)
    wide = 14.0 if person.expression in ("neutral", "serious") else 17.0
    curve = {"serious": -0.6, "neutral": 1.0, "smiling": 5.0, "laughing": 6.0}[person.expression]
    top = [(x - wide, y - curve * 0.6), (x - 5, y - full * 0.7 + 0.4), (x, y - full * 0.4 + 0.6), (x + 5, y - full * 0.7 + 0.4),
           (x + wide, y - curve * 0.6)]  # fmt: skip
    opening = 6.5 if person.expression == "laughing" else 0.0
    bottom = [(x + 9, y + curve * 0.35 + full * 0.8 + opening * 0.7), (x, y + curve * 0.6 + full * 1.35 + opening),
              (x - 9, y + curve * 0.35 + full * 0.8 + opening * 0.7)]  # fmt: skip
    sketch.shape(spline(top + bottom, 6), lip)
    if person.expression == "laughing":
        inner = [
            (x - wide + 2.5, y - 1.4),
            (x, y + 1.4),
            (x + wide - 2.5, y - 1.4),
            (x + 8, y + 6.8),
            (x, y + 8.6),
            (x - 8, y + 6.8),
        ]
        sketch.shape(spline(inner, 6), (92, 26, 30))
        teeth = [
            (x - wide + 3.5, y - 0.9),
            (x, y + 1.7),
            (x + wide - 3.5, y - 0.9),
            (x + 8.5, y + 4.4),
            (x, y + 5.6),
            (x - 8.5, y + 4.4),
        ]
        sketch.shape(spline(teeth, 6), (250, 249, 246))
    else:
        middle = [
            (x - wide, y - curve * 0.6),
            (x - 7, y + curve * 0.28),
            (x, y + curve * 0.42),
            (x + 7, y + curve * 0.28),
            (x + wide, y - curve * 0.6),
        ]
        sketch.stroke(smooth(middle), line, 1.5)
    shade = sketch.mask(ellipse(x, y + full * 1.6 + curve * 0.6 + opening + 2.6, 8, 2))
    sketch.fill(sketch.soft(shade, 2, 0.3), darker(person.skin, 0.35), solid=False)


def draw_glasses(sketch: Sketch) -> None:
    person = sketch.person
    if person.glasses == "none":
        return
    colour = person.glasses_colour
    for side in (-1, 1):
        x, y = feature_x(sketch, side * 18.8), FACE_Y - 0.5
        rim = (
            ellipse(x, y, 14.2, 13.2, 28)
            if person.glasses == "round"
            else spline(
                [
                    (x - 15, y - 9),
                    (x, y - 10.5),
                    (x + 15, y - 9),
                    (x + 14, y + 7),
                    (x, y + 10),
                    (x - 14, y + 7),
                ]
            )
        )
        sketch.shape(rim, (255, 255, 255), 0.13)
        sketch.stroke([*rim, rim[0], rim[1]], colour, 2.3)
        sketch.stroke([(x + side * 14.5, y - 3), (FACE_X + side * 43, FACE_Y - 2)], colour, 2.0)
    sketch.stroke(arc(feature_x(sketch, 0), FACE_Y, 5.0, 3.6, 200, 340), colour, 2.2)


# --- hair -----------------------------------------------------------------------------------------------------


def hair_field(sketch: Sketch) -> Array:
    """A sheen around the crown and strands that run from it."""
    rng, strands = sketch.rng, sketch.look.strands
    u, v = (GRID_X - FACE_X) / 52, (GRID_Y - (FACE_Y - 4)) / 66
    radius, angle = np.sqrt(u**2 + v**2), np.arctan2(u, -v)
    lines = sum(
        np.sin(angle * rng.uniform(10, 60) + radius * rng.uniform(-3, 3) + rng.uniform(0, 6.3))
        for _ in range(4)
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

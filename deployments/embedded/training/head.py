"""The head without its hair."""

from PIL import Image, ImageChops

from deployments.embedded.training.drawing import (
    FACE_X,
    FACE_Y,
    Points,
    Sketch,
    arc,
    bump,
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
from deployments.embedded.training.portrait import between


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
        over = [(x - wide, y + 0.8), (x - wide * 0.45, y - high * 0.85), (x + wide * 0.4, y - high * 0.9)]
        under = [(x + wide, y), (x + wide * 0.45, y + high * 0.8), (x - wide * 0.4, y + high * 0.82)]
        white = sketch.mask(spline(over + under))
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
        sketch.stroke(arc(x + side * wide * 0.72, y, 3.2, 4.2, *((-60, 70) if side > 0 else (110, 240))), shade, 1.2)
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
    corner = y - curve * 0.6
    bow = y - full * 0.7 + 0.4
    top = [(x - wide, corner), (x - 5, bow), (x, y - full * 0.4 + 0.6), (x + 5, bow), (x + wide, corner)]
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

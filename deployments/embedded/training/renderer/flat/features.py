"""Eyes, brows, nose and mouth of a flat drawing: human proportions, fine lines."""

from PIL import ImageChops

from deployments.embedded.training.renderer.drawing import (
    Points,
    Sketch,
    arc,
    darker,
    ellipse,
    lighter,
    shifted,
    smooth,
    spline,
)
from deployments.embedded.training.renderer.portrait import Colour, Expression, between

LIFT: dict[Expression, float] = {"serious": -2.0, "neutral": 0.0, "smiling": 1.0, "laughing": 2.5, "surprised": 4.0}
CURVE: dict[Expression, float] = {"serious": -0.6, "neutral": 1.0, "smiling": 5.0, "laughing": 6.0, "surprised": 0.5}
GAPE: dict[Expression, float] = {"serious": 0.0, "neutral": 0.0, "smiling": 0.0, "laughing": 6.5, "surprised": 6.0}
HALF: dict[Expression, float] = {"serious": 14.0, "neutral": 14.0, "smiling": 17.0, "laughing": 17.0, "surprised": 9.0}


def draw_features(sketch: Sketch) -> None:
    """On the bare face with its beard."""
    draw_eyes(sketch)
    draw_nose(sketch)
    draw_mouth(sketch)
    draw_brows(sketch)


def draw_eyes(sketch: Sketch) -> None:
    """As far open as `look.eye_scale` and the expression say; women's are larger, with a lash."""
    person, woman = sketch.person, sketch.person.gender == "woman"
    scale = sketch.look.eye_scale
    wide = (8.6 + 2.0 * person.eye_size + (0.8 if woman else 0)) * (0.88 + 0.12 * scale)
    high = (5.2 + 1.6 * person.eye_size + (0.8 if woman else 0)) * scale
    if person.expression == "laughing":
        high *= 0.82
    for side in (-1, 1):
        draw_eye(sketch, sketch.feature_x(side * 18.5), sketch.face_y - 2.0, wide, high)
        if woman:
            tip, y = sketch.feature_x(side * 18.5) + side * wide, sketch.face_y - 2.0
            sketch.stroke([(tip, y), (tip + side * 3.0, y - 3.0)], lid_colour(sketch), 1.6)


def lid_colour(sketch: Sketch) -> Colour:
    """Nearly black, with a tint of skin and hair."""
    return darker(between(sketch.person.skin, sketch.person.hair, 0.3), 0.78)


def draw_eye(sketch: Sketch, x: float, y: float, wide: float, high: float) -> None:
    """One eye with its lids about (x, y); `wide` and `high` are half of its size."""
    person = sketch.person
    upper: Points = [(-wide, 0.8), (-wide * 0.45, -high * 0.87), (wide * 0.4, -high * 0.91), (wide, 0.0)]
    lower: Points = [(wide * 0.45, high * 0.8), (-wide * 0.4, high * 0.82)]
    white = sketch.mask(spline(shifted(upper + lower, x, y)))
    sketch.fill(white, between((246, 244, 242), person.skin, 0.22), solid=False)
    iris, look_x = min(high * 0.98, 6.4), x + 1.6 * person.yaw
    for down, radius, colour in ((0.0, iris, darker(person.eyes, 0.25)), (0.6, iris * 0.75, person.eyes)):
        disc = ImageChops.multiply(sketch.mask(ellipse(look_x, y + down, radius, radius)), white)
        sketch.fill(disc, colour, solid=False)
    sketch.shape(ellipse(look_x, y, iris * 0.5, iris * 0.5), (14, 10, 12))
    sketch.shape(ellipse(look_x - 1.7, y - 1.9, 1.4, 1.4, 10), (255, 255, 255))
    sketch.stroke(smooth(shifted(upper, x, y)), lid_colour(sketch), 2.2 if person.gender == "woman" else 1.7)
    sketch.stroke(arc(x, y - 1, wide * 1.02, high * 1.55, 215, 325), darker(person.skin, 0.3), 0.9)
    sketch.stroke(arc(x, y + 1, wide * 0.95, high * 1.25, 40, 140), darker(person.skin, 0.2), 0.8)


def draw_brows(sketch: Sketch) -> None:
    """One line each, thinner for women, lower towards the nose where the expression is serious."""
    person = sketch.person
    colour = darker(person.hair, 0.42 if sum(person.hair) > 480 else 0.35)
    thick = (2.0 + 2.4 * person.brows) * (1.0 if person.gender == "man" else 0.7)
    frown = 2.2 if person.expression == "serious" else 0.0
    y = sketch.face_y - 17.0 - LIFT[person.expression]
    spine = [(8.5, y + 1.5 + frown), (17.0, y - 2.0), (24.0, y - 1.2), (30.5, y + 3.0)]
    for side in (-1, 1):
        sketch.stroke(smooth([(sketch.feature_x(side * x), down) for x, down in spine]), colour, thick)


def draw_nose(sketch: Sketch) -> None:
    """The shade of ridge and ball, deeper in a look of more contrast, then nostrils, wings and a highlight."""
    person, depth = sketch.person, sketch.look.contrast
    middle = sketch.face_y
    x, y = sketch.feature_x(0) + 2.5 * person.yaw, middle + 20.0
    wide = 7.0 + 3.0 * person.nose_size
    shade, deep = darker(person.skin, 0.2 + 0.1 * depth), darker(person.skin, 0.5)
    ridge = sketch.mask(spline([(x + 3, middle - 6), (x + 5, y - 6), (x + wide, y + 2), (x + 2, y - 2)]))
    sketch.fill(sketch.soft(ridge, 2.5, 0.55), shade, solid=False)
    ball = sketch.mask(ellipse(x, y + 3, wide, 3.6))
    sketch.fill(sketch.soft(ball, 2.2, 0.6), shade, solid=False)
    for side in (-1, 1):
        sketch.shape(ellipse(x + side * wide * 0.48, y + 2.6, 2.3, 1.3, 12), deep)
        wing = arc(x + side * wide * 0.72, y, 3.2, 4.2, *((-60, 70) if side > 0 else (110, 240)))
        sketch.stroke(wing, shade, 1.2)
    shine = sketch.mask(ellipse(x - 1.5, y - 2.5, 2.6, 2.2))
    sketch.fill(sketch.soft(shine, 1.6, 0.5), lighter(person.skin, 0.5), solid=False)


def draw_mouth(sketch: Sketch) -> None:
    """Lips with a line between them, or open where the person laughs or is surprised."""
    person, woman = sketch.person, sketch.person.gender == "woman"
    x, y = sketch.feature_x(0) + 1.0 * person.yaw, sketch.face_y + 37.0
    lip = between(person.skin, (186, 50, 60) if woman else (160, 66, 60), 0.55 if woman else 0.38)
    full = 2.0 + 2.2 * person.lips + (0.8 if woman else 0.0)
    wide, curve, gape = HALF[person.expression], CURVE[person.expression], GAPE[person.expression]
    corner, bow = y - curve * 0.6, y - full * 0.7 + 0.4
    top = [(x - wide, corner), (x - 5, bow), (x, y - full * 0.4 + 0.6), (x + 5, bow), (x + wide, corner)]
    low = y + curve * 0.35 + full * 0.8 + gape * 0.7
    bottom = [(x + wide * 0.55, low), (x, y + curve * 0.6 + full * 1.35 + gape), (x - wide * 0.55, low)]
    sketch.shape(spline(top + bottom, 6), lip)
    if gape:
        draw_opening(sketch, x, y, wide)
    else:
        middle = [(x - wide, corner), (x - 7, y + curve * 0.28), (x, y + curve * 0.42), (x + 7, y + curve * 0.28),
                  (x + wide, corner)]  # fmt: skip
        sketch.stroke(smooth(middle), darker(lip, 0.5), 1.5)
    shade = sketch.mask(ellipse(x, y + full * 1.6 + curve * 0.6 + gape + 2.6, 8, 2))
    sketch.fill(sketch.soft(shade, 2, 0.3), darker(person.skin, 0.35), solid=False)


def draw_opening(sketch: Sketch, x: float, y: float, wide: float) -> None:
    """The dark inside and the upper teeth, between corners almost `wide` away from x."""
    inner = [(x - wide + 2.5, y - 1.4), (x, y + 1.4), (x + wide - 2.5, y - 1.4), (x + wide * 0.48, y + 6.8),
             (x, y + 8.6), (x - wide * 0.48, y + 6.8)]  # fmt: skip
    sketch.shape(spline(inner, 6), (92, 26, 30))
    teeth = [(x - wide + 3.5, y - 0.9), (x, y + 1.7), (x + wide - 3.5, y - 0.9), (x + wide * 0.5, y + 4.4),
             (x, y + 5.6), (x - wide * 0.5, y + 4.4)]  # fmt: skip
    sketch.shape(spline(teeth, 6), (250, 249, 246))

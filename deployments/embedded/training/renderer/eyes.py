"""Eyes and brows of a cartoon: large, with one thick lid and one highlight."""

from PIL import Image, ImageChops

from deployments.embedded.training.renderer.drawing import (
    Points,
    Sketch,
    darker,
    ellipse,
    lighter,
    shifted,
    smooth,
    spline,
)
from deployments.embedded.training.renderer.parts import IRIS, SCLERA, SKIN
from deployments.embedded.training.renderer.portrait import Colour, Expression, between

APART, BELOW = 25.0, 3.0  # of an eye's centre from the face's
OPEN: dict[Expression, float] = {"serious": 0.84, "neutral": 0.94, "smiling": 1.0, "laughing": 0.9, "surprised": 1.14}
LIFT: dict[Expression, float] = {"serious": -3.0, "neutral": 0.0, "smiling": 1.0, "laughing": 3.0, "surprised": 7.0}


def eye_outline(sketch: Sketch) -> tuple[Points, Points]:
    """Upper and lower lid about the eye's centre, from left to right and back."""
    person = sketch.person
    wide = 15.2 + 1.6 * person.eye_size
    high = (12.8 + 1.6 * person.eye_size + (0.8 if person.gender == "woman" else 0.0)) * OPEN[person.expression]
    low = high * (0.72 if person.expression == "laughing" else 0.94)
    upper = [(-wide, 2.0), (-wide * 0.66, -high * 0.76), (0.0, -high), (wide * 0.66, -high * 0.76), (wide, 2.0)]
    lower = [(wide * 0.64, low * 0.82), (0.0, low), (-wide * 0.64, low * 0.82)]
    return upper, lower


def draw_eyes(sketch: Sketch) -> None:
    """White with the lid's shade, iris and upper lid, women's with a lash; the iris moves with the head's turn."""
    upper, lower = eye_outline(sketch)
    lid = darker(
        between(sketch.person.skin, sketch.person.hair, 0.3), 0.84 if sketch.person.gender == "woman" else 0.66
    )
    for side in (-1, 1):
        x, y = sketch.feature_x(side * APART), sketch.face_y + BELOW
        if sketch.person.winking and side < 0:
            draw_shut_eye(sketch, x, y, upper[-1][0], lid)
            continue
        outline = spline(shifted(upper + lower, x, y))
        white = sketch.mask(outline)
        sketch.fill(white, (221, 216, 221), solid=False, part=SCLERA)
        sketch.fill(ImageChops.multiply(white, sketch.mask(shifted(outline, 0, 4.5))), (252, 251, 249), solid=False)
        draw_iris(sketch, x + 2.5 * sketch.person.yaw, y - 0.5, white)
        sketch.stroke(smooth(shifted(upper, x, y)), lid, 4.6)
        if sketch.person.gender == "woman":
            tip = x + side * upper[-1][0]
            lash = [(tip - side * 5, y - 5.0), (tip + side * 6.5, y - 5.5), (tip + side * 1.0, y + 3.5)]
            sketch.shape(lash, lid)


def draw_shut_eye(sketch: Sketch, x: float, y: float, wide: float, lid: Colour) -> None:
    """A winking eye about (x, y), `wide` to each side: one line, bent upwards, and a lash where eyes have one."""
    line = [(x - wide, y + 6.0), (x - wide * 0.5, y - 0.5), (x + wide * 0.4, y - 0.5), (x + wide, y + 5.0)]
    sketch.stroke(smooth(line), lid, 5.0)
    if sketch.person.gender == "woman":
        sketch.stroke([(x - wide * 0.8, y + 4.0), (x - wide - 6.0, y + 1.0)], lid, 4.0)


def draw_iris(sketch: Sketch, x: float, y: float, white: Image.Image) -> None:
    """Iris, pupil and highlight about (x, y), all but the highlight within the mask `white`."""
    radius = 10.4 + 0.8 * sketch.person.eye_size
    colour = lighter(sketch.person.eyes, 0.1)

    def disc(down: float, wide: float, high: float) -> Image.Image:
        return ImageChops.multiply(sketch.mask(ellipse(x, y + down, wide, high)), white)

    sketch.fill(disc(0, radius, radius), darker(colour, 0.45), solid=False, part=IRIS)
    sketch.fill(disc(0.6, radius - 2, radius - 2), colour, solid=False)
    sketch.fill(disc(4.0, radius * 0.6, radius * 0.36), lighter(colour, 0.32), solid=False)
    sketch.fill(disc(0, radius * 0.54, radius * 0.54), (16, 12, 14), solid=False)
    sketch.part = IRIS
    sketch.shape(ellipse(x - 3.4, y - 4.0, 3.0, 3.0, 16), (255, 255, 255))
    sketch.part = SKIN


def draw_brows(sketch: Sketch) -> None:
    """Thick at the nose, thinner outwards."""
    person = sketch.person
    man = person.gender == "man"
    colour = darker(person.hair, 0.4 if sum(person.hair) > 480 else 0.25)
    half = (2.9 + 1.1 * person.brows) if man else (2.4 + 0.6 * person.brows)
    frown = 4.0 if person.expression == "serious" else 0.0
    arch = 4.0 if man else 5.5
    y = sketch.face_y - 20.5 - LIFT[person.expression]
    spine = [(11.5, y + frown), (20.0, y - arch + 0.8), (30.0, y - arch + 0.6), (40.0, y + 2.5)]
    for side in (-1, 1):
        above = [(sketch.feature_x(side * x), down - half) for x, down in spine]
        below = [(sketch.feature_x(side * x), down + half) for x, down in spine]
        above[-1] = below[-1] = (sketch.feature_x(side * 42.5), y + 4.5)
        sketch.shape([*smooth(above), *reversed(smooth(below))], colour)

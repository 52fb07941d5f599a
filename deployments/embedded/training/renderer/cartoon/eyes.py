"""Eyes and brows of a cartoon, small enough that irises and lids tell people apart."""

import numpy as np
from PIL import Image

from deployments.embedded.training.renderer.cartoon.proportions import Proportions
from deployments.embedded.training.renderer.drawing import (
    Points,
    Sketch,
    darker,
    ellipse,
    lighter,
    overlap,
    shaded,
    shifted,
    smooth,
    spline,
)
from deployments.embedded.training.renderer.parts import IRIS, SCLERA, SKIN
from deployments.embedded.training.renderer.portrait import Colour, Expression, between

OPEN: dict[Expression, float] = {"serious": 0.84, "neutral": 0.95, "smiling": 1.0, "laughing": 0.84, "surprised": 1.2}
LIFT: dict[Expression, float] = {"serious": -3.0, "neutral": 0.0, "smiling": 1.0, "laughing": 2.5, "surprised": 6.0}


def eye_outline(sketch: Sketch, face: Proportions, side: int) -> tuple[Points, Points]:
    """Upper and lower lid about the eye's centre; age lowers the outer corner, which is on the `side` of 1 right."""
    person = sketch.person
    woman = person.gender == "woman"
    wide = 11.8 + 4.4 * person.eye_size + 1.0 * face.childlike
    high = (7.2 + 4.6 * person.eye_size + (0.7 if woman else 0.0) + 1.8 * face.childlike) * OPEN[person.expression]
    low = high * (0.62 if person.expression == "laughing" else 0.86)
    sunk = 3.4 * face.aged
    upper = [(-wide, 1.5), (-wide * 0.62, -high * 0.76), (0.0, -high), (wide * 0.66, -high * 0.76 + sunk),
             (wide, 0.5 + sunk * 0.8)]  # fmt: skip
    lower = [(wide * 0.62, low * 0.82), (0.0, low), (-wide * 0.64, low * 0.82)]
    return [(side * x, y) for x, y in upper], [(side * x, y) for x, y in lower]


def draw_eyes(sketch: Sketch, face: Proportions) -> None:
    """White with the lid's shade, iris, crease and upper lid, women's with a lash; irises move with the head's turn."""
    person = sketch.person
    woman = person.gender == "woman"
    lid = darker(between(person.skin, person.hair, 0.3), 0.84 if woman else 0.66)
    draw_creases(sketch, face)
    for side in (-1, 1):
        x, y = sketch.feature_x(side * face.apart), sketch.face_y + face.eyes
        upper, lower = eye_outline(sketch, face, side)
        if person.winking and side < 0:
            draw_shut_eye(sketch, x, y, upper[-1][0] * side, lid)
            continue
        outline = spline(shifted(upper + lower, x, y))
        white = sketch.mask(outline)
        sketch.fill(white, (216, 211, 216), solid=False, part=SCLERA)
        sketch.fill(overlap(white, sketch.mask(shifted(outline, 0, 3.6))), (252, 251, 249), solid=False)
        draw_iris(sketch, face, x + 2.5 * person.yaw, y - 0.6, white)
        sketch.stroke(smooth(shifted(upper, x, y)), lid, 4.2)
        if woman:
            tip, down = x + upper[-1][0], y + upper[-1][1]
            lash = [(tip - side * 5, down - 5.0), (tip + side * 5.5, down - 6.0), (tip + side * 1.0, down + 2.5)]
            sketch.shape(lash, lid)


def draw_shut_eye(sketch: Sketch, x: float, y: float, wide: float, lid: Colour) -> None:
    """A winking eye about (x, y), `wide` to each side: one line, bent upwards, and a lash where eyes have one."""
    line = [(x - wide, y + 6.0), (x - wide * 0.5, y - 0.5), (x + wide * 0.4, y - 0.5), (x + wide, y + 5.0)]
    sketch.stroke(smooth(line), lid, 5.0)
    if sketch.person.gender == "woman":
        sketch.stroke([(x - wide * 0.8, y + 4.0), (x - wide - 6.0, y + 1.0)], lid, 4.0)


def draw_creases(sketch: Sketch, face: Proportions) -> None:
    """A soft fold above each eye, which sinks with age."""
    creases = []
    for side in (-1, 1):
        upper, _ = eye_outline(sketch, face, side)
        fold = [(x * 1.08, y * 1.25 - 4.2 + 2.0 * face.aged) for x, y in upper]
        creases.append(smooth(shifted(fold, sketch.feature_x(side * face.apart), sketch.face_y + face.eyes)))
    lines = sketch.soft(sketch.line_mask(*creases, width=4.0), 0.6, 0.4)
    sketch.fill(lines, shaded(sketch.person.skin, 0.42), solid=False)


def vivid(colour: Colour) -> Colour:
    """The colour of an iris, lighter and more saturated, so that a few pixels tell which it is."""
    grey = sum(colour) / 3
    r, g, b = (int(np.clip(1.22 * (grey + 1.45 * (level - grey)) + 10, 0, 255)) for level in colour)
    return r, g, b


def draw_iris(sketch: Sketch, face: Proportions, x: float, y: float, white: Image.Image) -> None:
    """Iris, small pupil and highlight about (x, y), all but the highlight within the mask `white`."""
    radius = 7.6 + 1.6 * sketch.person.eye_size + 0.7 * face.childlike
    colour = vivid(sketch.person.eyes)

    def disc(down: float, wide: float, high: float) -> Image.Image:
        return overlap(sketch.mask(ellipse(x, y + down, wide, high)), white)

    sketch.fill(disc(0, radius, radius), darker(colour, 0.4), solid=False, part=IRIS)
    sketch.fill(disc(0.5, radius - 1.5, radius - 1.5), colour, solid=False)
    sketch.fill(disc(3.4, radius * 0.62, radius * 0.4), lighter(colour, 0.3), solid=False)
    sketch.fill(disc(0, radius * 0.42, radius * 0.42), (16, 12, 14), solid=False)
    sketch.part = IRIS
    sketch.shape(ellipse(x - 2.8, y - 3.2, 2.2, 2.2, 16), (255, 255, 255))
    sketch.part = SKIN


def draw_brows(sketch: Sketch, face: Proportions) -> None:
    """From a thin arch to a thick straight bar, tapered outwards."""
    person = sketch.person
    man = person.gender == "man"
    colour = darker(person.hair, 0.38 if sum(person.hair) > 480 else 0.22)
    half = (1.5 + 3.2 * person.brows) if man else (1.2 + 2.3 * person.brows)
    arch = (5.5 if man else 7.0) - 3.0 * person.brows
    frown = 4.0 if person.expression == "serious" else 0.0
    y = sketch.face_y + face.eyes - 20.0 - LIFT[person.expression] - 1.5 * (1 - person.brows) + 1.5 * face.aged
    inner, outer = face.apart - 13.0 - 1.5 * person.brows, face.apart + 15.0
    step = (outer - inner) / 3
    spine = [(inner, y + frown), (inner + step, y - arch * 0.85), (inner + 2 * step, y - arch), (outer - 2, y + 0.8)]
    taper = (0.9, 1.05, 0.95, 0.5)
    for side in (-1, 1):
        above = [(sketch.feature_x(side * x), down - half * t) for (x, down), t in zip(spine, taper, strict=True)]
        below = [(sketch.feature_x(side * x), down + half * t) for (x, down), t in zip(spine, taper, strict=True)]
        tip = [(sketch.feature_x(side * (outer + 1)), y + 2.6)]
        sketch.shape([*smooth([*above, *tip]), *reversed(smooth([*below, *tip]))], colour)

"""Hats of a cartoon: beanie and cap, which all drawings share, a hat with a brim, a headscarf."""

from deployments.embedded.training.renderer import hats
from deployments.embedded.training.renderer.cartoon.proportions import Proportions
from deployments.embedded.training.renderer.drawing import (
    FACE_X,
    Points,
    Sketch,
    darker,
    ellipse,
    faded,
    light_field,
    lighter,
    mirrored,
    shaded,
    smooth,
    spline,
    tinted,
)
from deployments.embedded.training.renderer.hats import BAND, cloth
from deployments.embedded.training.renderer.portrait import Colour


def draw_hat(sketch: Sketch, face: Proportions) -> None:
    """Over the front hair; nothing without a hat."""
    if sketch.person.hat == "brimmed":
        draw_brimmed(sketch)
    elif sketch.person.hat == "headscarf":
        draw_headscarf(sketch, face)
    else:
        hats.draw_hat(sketch)


def draw_cloth(sketch: Sketch, outline: Points, colour: Colour, lift: float = 0.04) -> None:
    """A piece of cloth, in units of the skull, with soft shading and rim light."""
    mask = sketch.mask(sketch.skull(outline))
    field = light_field(sketch, FACE_X, sketch.face_y, 100, 104, 0.8) + lift
    sketch.fill(mask, tinted(colour, field, 0.0))
    sketch.take_rim_light(mask, colour)


def draw_brimmed(sketch: Sketch) -> None:
    """A pinched crown with a ribbon over a brim that is wider than the face."""
    colour, turn = cloth(sketch.person.hat_name), 4.0 * sketch.person.yaw
    crown = [(0.0, -80.0), (18.0, -84.0), (33.0, -76.0), (39.0, -58.0), (42.0, BAND - 2), (0.0, BAND + 2)]
    shade = sketch.soft(sketch.mask(sketch.skull(ellipse(turn, BAND + 9, 58.0, 9.0))), 4, 0.4)
    sketch.fill(shade, shaded(sketch.person.skin, 0.5), solid=False)
    draw_cloth(sketch, spline(mirrored(crown)), colour)
    ribbon = [(0.0, BAND - 13), (41.0, BAND - 16), (43.0, BAND - 2), (0.0, BAND + 2)]
    dark = sum(colour) < 190
    draw_cloth(sketch, mirrored(ribbon), lighter(colour, 0.35) if dark else darker(colour, 0.55))
    brim = [(turn, BAND - 9), (30.0 + turn, BAND - 8), (58.0 + turn, BAND - 1), (74.0 + turn, BAND + 7),
            (60.0 + turn, BAND + 13), (30.0 + turn, BAND + 10), (turn, BAND + 8), (turn - 30, BAND + 10),
            (turn - 60, BAND + 13), (turn - 74, BAND + 7), (turn - 58, BAND - 1), (turn - 30, BAND - 8)]  # fmt: skip
    draw_cloth(sketch, spline(brim), lighter(colour, 0.08), 0.12)
    edge = smooth([(-70.0 + turn, BAND + 8), (-30.0 + turn, BAND + 8), (turn, BAND + 6), (30.0 + turn, BAND + 8),
                   (70.0 + turn, BAND + 8)])  # fmt: skip
    sketch.fill(faded(sketch.line_mask(sketch.skull(edge), width=4.0), 0.6), darker(colour, 0.4), solid=False)


def scarf_outline(face: Proportions) -> Points:
    """About the head and down to the shoulders, from the top round to the top."""
    low = face.chin
    right = [(0.0, -72.0), (28.0, -67.0), (47.0, -44.0), (53.0, -8.0), (51.0, 30.0), (47.0, low), (60.0, low + 26),
             (42.0, low + 38), (0.0, low + 44)]  # fmt: skip
    return [*spline(mirrored(right)), right[0]]


def draw_scarf_behind(sketch: Sketch, face: Proportions) -> None:
    """The inner side of a headscarf, which is seen where the face does not fill it: drawn before the face."""
    draw_cloth(sketch, scarf_outline(face), darker(cloth(sketch.person.hat_name), 0.4))


def draw_headscarf(sketch: Sketch, face: Proportions) -> None:
    """Cloth about the whole head but for the face, crossed below the chin, with folds."""
    colour, low = cloth(sketch.person.hat_name), face.chin
    inner = [(0.0, -42.0), (22.0, -38.0), (34.5, -22.0), (37.5, 4.0), (33.0, low * 0.62), (18.0, low * 0.93),
             (0.0, low - 0.5)]  # fmt: skip
    opening = spline(mirrored(inner))
    hole = [*opening, opening[0]]
    draw_cloth(sketch, [*scarf_outline(face), *reversed(hole)], colour)
    folds: list[Points] = []
    for side in (-1, 1):
        folds.append(smooth([(side * 30.0, -48.0), (side * 45.0, -8.0), (side * 42.0, 32.0), (side * 20.0, low + 12)]))
        folds.append(smooth([(side * 50.0, low + 8), (side * 26.0, low + 24), (side * -6.0, low + 34)]))
    lines = [sketch.skull(fold) for fold in folds]
    sketch.fill(sketch.soft(sketch.line_mask(*lines, width=4.5), 1.0, 0.6), darker(colour, 0.4), solid=False)
    edge = faded(sketch.line_mask(sketch.skull(hole), width=4.5), 0.8)
    sketch.fill(edge, lighter(colour, 0.14), solid=False)

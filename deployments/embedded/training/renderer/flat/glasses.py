"""Glasses of a flat drawing, round or square, with bridge and temples."""

from deployments.embedded.training.renderer.drawing import FACE_X, Points, Sketch, arc, ellipse, faded, spline

# in drawing units
APART, BELOW = 18.8, -0.5  # of a lens's centre from the face's
WIDE, HIGH = 14.5, 13.0  # half of a lens
RIM = 2.3
TEMPLE = 43.0  # where it ends, from the face's middle


def draw_glasses(sketch: Sketch) -> None:
    """Lenses with a weak white shine, rims, temples and bridge; nothing without glasses."""
    if sketch.person.glasses == "none":
        return
    colour, y = sketch.person.glasses_colour, sketch.face_y + BELOW
    for side in (-1, 1):
        x = sketch.feature_x(side * APART)
        rim = rim_outline(sketch, x, y)
        sketch.fill(faded(sketch.mask(rim), 0.13), (255, 255, 255), solid=False)
        sketch.stroke([*rim, rim[0], rim[1]], colour, RIM)
        sketch.stroke([(x + side * WIDE, y - 3), (FACE_X + side * TEMPLE, y - 5)], colour, RIM * 0.85)
    gap = APART - WIDE
    sketch.stroke(arc(sketch.feature_x(0), y + 1, gap, gap * 0.7, 200, 340), colour, RIM)


def rim_outline(sketch: Sketch, x: float, y: float) -> Points:
    """The closed outline about (x, y): an ellipse, or a rounded box that narrows downwards."""
    if sketch.person.glasses == "round":
        return ellipse(x, y, WIDE, HIGH, 32)
    wide, high = WIDE, HIGH * 0.86
    return spline([(x - wide, y - high * 0.7), (x - wide * 0.8, y - high), (x + wide * 0.8, y - high),
                   (x + wide, y - high * 0.7), (x + wide * 0.92, y + high * 0.6), (x + wide * 0.66, y + high),
                   (x - wide * 0.66, y + high), (x - wide * 0.92, y + high * 0.6)])  # fmt: skip

"""Glasses, round or square, with bridge and temples."""

from dataclasses import dataclass

from deployments.embedded.training.renderer.drawing import Points, Sketch, arc, ellipse, faded, spline


@dataclass(frozen=True)
class Fit:
    """Where the lenses sit on the face and how thick the frame is, in drawing units."""

    apart: float
    below: float
    wide: float
    high: float
    frame: float
    temple: float  # where it ends, from the face's middle


PHOTO = Fit(apart=18.8, below=-0.5, wide=14.5, high=13.0, frame=2.3, temple=43.0)
CARTOON = Fit(apart=25.0, below=3.5, wide=20.5, high=19.5, frame=5.4, temple=52.0)


def draw_glasses(sketch: Sketch) -> None:
    """Lenses with a weak white shine, rims, temples and bridge; nothing without glasses."""
    if sketch.person.glasses == "none":
        return
    fit = CARTOON if sketch.look.cartoon else PHOTO
    colour, y = sketch.person.glasses_colour, sketch.face_y + fit.below
    for side in (-1, 1):
        x = sketch.feature_x(side * fit.apart)
        rim = rim_outline(sketch, fit, x, y)
        sketch.fill(faded(sketch.mask(rim), 0.13), (255, 255, 255), solid=False)
        sketch.stroke([*rim, rim[0], rim[1]], colour, fit.frame)
        temple = [(x + side * fit.wide, y - 3), (128 + side * fit.temple, y - 5)]
        sketch.stroke(temple, colour, fit.frame * 0.85)
    gap = fit.apart - fit.wide
    sketch.stroke(arc(sketch.feature_x(0), y + 1, gap, gap * 0.7, 200, 340), colour, fit.frame)


def rim_outline(sketch: Sketch, fit: Fit, x: float, y: float) -> Points:
    """The closed outline about (x, y): an ellipse, or a rounded box that narrows downwards."""
    if sketch.person.glasses == "round":
        return ellipse(x, y, fit.wide, fit.high, 32)
    wide, high = fit.wide, fit.high * 0.86
    return spline([(x - wide, y - high * 0.7), (x - wide * 0.8, y - high), (x + wide * 0.8, y - high),
                   (x + wide, y - high * 0.7), (x + wide * 0.92, y + high * 0.6), (x + wide * 0.66, y + high),
                   (x - wide * 0.66, y + high), (x - wide * 0.92, y + high * 0.6)])  # fmt: skip

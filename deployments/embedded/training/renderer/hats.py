"""Beanies and caps, over the hair."""

from deployments.embedded.training.renderer.drawing import (
    FACE_X,
    Sketch,
    bump,
    darker,
    light_field,
    lighter,
    mirrored,
    shaded,
    smooth,
    spline,
    tinted,
)
from deployments.embedded.training.renderer.portrait import NAMED_COLOURS, Colour

BAND = -34.0  # the skull's height at which a hat begins


def cloth(name: str) -> Colour:
    """Of a named colour; black cloth is never as black as a background."""
    return (50, 50, 57) if name == "black" else NAMED_COLOURS[name]


def draw_hat(sketch: Sketch) -> None:
    """Over the front hair; nothing without a hat."""
    if sketch.person.hat == "beanie":
        draw_beanie(sketch)
    elif sketch.person.hat == "cap":
        draw_cap(sketch)


def draw_dome(sketch: Sketch, top: float) -> None:
    """The crown of a hat, from `BAND` up to `top` above the face's centre, in units of the skull."""
    dome = [(0.0, -top), (24.0, -top + 4), (42.0, -top + 22), (48.0, BAND - 2), (46.5, BAND + 8), (0.0, BAND)]
    field = light_field(sketch, FACE_X, sketch.face_y - 40, 74, 66, 0.9) + 0.06
    mask = sketch.mask(sketch.skull(spline(mirrored(dome))))
    sketch.fill(mask, tinted(cloth(sketch.person.hat_name), field, 0.0))
    sketch.take_rim_light(mask, cloth(sketch.person.hat_name))


def draw_beanie(sketch: Sketch) -> None:
    """A dome with a lighter folded edge."""
    colour = cloth(sketch.person.hat_name)
    draw_dome(sketch, 76.0)
    fold = [(0.0, BAND - 14), (30.0, BAND - 11), (48.5, BAND - 4), (49.5, BAND + 5), (47.0, BAND + 15),
            (28.0, BAND + 6), (0.0, BAND + 3)]  # fmt: skip
    field = light_field(sketch, FACE_X, sketch.face_y - 34, 80, 60, 0.8) + 0.12
    mask = sketch.mask(sketch.skull(spline(mirrored(fold))))
    sketch.fill(mask, tinted(lighter(colour, 0.1), field, 0.0))
    edge = [(-47.0, BAND - 4), (-30.0, BAND - 11), (0.0, BAND - 14), (30.0, BAND - 11), (47.0, BAND - 4)]
    sketch.stroke(sketch.skull(smooth(edge)), darker(colour, 0.35), 4.0)


def draw_cap(sketch: Sketch) -> None:
    """A dome with a button, and a visor that turns with the head."""
    colour = cloth(sketch.person.hat_name)
    draw_dome(sketch, 72.0)
    turn = 6.0 * sketch.person.yaw
    visor = [(turn, BAND - 16), (28.0 + turn, BAND - 12), (47.0 + turn, BAND), (56.0 + turn, BAND + 14),
             (46.0 + turn, BAND + 15), (24.0 + turn, BAND + 9), (turn, BAND + 7), (-24.0 + turn, BAND + 9),
             (-46.0 + turn, BAND + 15), (-56.0 + turn, BAND + 14), (-47.0 + turn, BAND),
             (-28.0 + turn, BAND - 12)]  # fmt: skip
    field = light_field(sketch, FACE_X, sketch.face_y - 30, 90, 60, 0.8)
    field += 0.16 * bump(FACE_X - 14, sketch.face_y - 46, 26, 6)
    sketch.fill(sketch.mask(sketch.skull(spline(visor))), tinted(shaded(colour, 0.34), field, 0.0))
    sketch.fill(sketch.mask(sketch.skull(spline([(-4, -73), (4, -73), (5, -69), (-5, -69)]))), darker(colour, 0.2))

"""Glasses of a cartoon: from a wire to thick acetate, with clear lenses or dark ones."""

from dataclasses import dataclass

from PIL import Image

from deployments.embedded.training.renderer.cartoon.proportions import Proportions
from deployments.embedded.training.renderer.drawing import Points, Sketch, arc, ellipse, faded, lighter, overlap, spline
from deployments.embedded.training.renderer.parts import FRAME, LENS

DARK_GLASS = (30, 30, 36)
BELOW = 1.5  # of the lenses' centre, below the eyes'


@dataclass(frozen=True)
class Frame:
    """Half the size of a lens and the thickness of its rim, in drawing units."""

    wide: float
    high: float
    rim: float


def draw_glasses(sketch: Sketch, face: Proportions) -> None:
    """Lenses with glints, rims, temples and bridge; nothing without glasses."""
    person = sketch.person
    if person.glasses == "none":
        return
    rim = 3.6 + 4.4 * person.frame_weight
    frame = Frame(face.apart - 5.5 - rim * 0.1, 17.0 if person.glasses == "round" else 14.5, rim)
    y = sketch.face_y + face.eyes + BELOW
    for side in (-1, 1):
        draw_lens(sketch, frame, sketch.feature_x(side * face.apart), y, side, face)
    gap = face.apart - frame.wide
    bridge = arc(sketch.feature_x(0), y - 1, gap, gap * 0.6, 200, 340)
    sketch.stroke(bridge, person.glasses_colour, max(rim * 0.8, 4.0))


def draw_lens(sketch: Sketch, frame: Frame, x: float, y: float, side: int, face: Proportions) -> None:
    """One lens about (x, y) with its rim and temple; a thick frame is heavier above and has a light along it."""
    person, colour = sketch.person, sketch.person.glasses_colour
    rim = rim_outline(sketch, frame, x, y, side)
    glass = sketch.mask(rim)
    if person.glasses == "sun":
        sketch.fill(faded(glass, 0.94), DARK_GLASS, part=LENS)
        below = overlap(glass, sketch.soft(sketch.mask(ellipse(x, y + frame.high, 22, 13)), 5, 0.4))
        sketch.fill(below, (150, 130, 120), solid=False)
    draw_glint(sketch, frame, x, y, glass)
    sketch.part = FRAME
    ((edge, _),) = sketch.skull([(side * 43.0, 0.0)])
    sketch.stroke([(x + side * frame.wide, y - 3), (edge, y - 5)], colour, max(frame.rim * 0.85, 4.0))
    sketch.stroke([*rim, rim[0], rim[1]], colour, frame.rim)
    if person.frame_weight > 0.35:
        light = sorted((px, py - frame.rim * 0.16) for px, py in rim if py < y - frame.high * 0.62)
        sketch.fill(faded(sketch.line_mask(light, width=1.0), 0.35), lighter(colour, 0.45), solid=False)


def draw_glint(sketch: Sketch, frame: Frame, x: float, y: float, glass: Image.Image) -> None:
    """Two slanting streaks and, on clear glass, a pale tint."""
    sun = sketch.person.glasses == "sun"
    if not sun:
        sketch.fill(faded(glass, 0.12), (226, 240, 255), solid=False)
    high = frame.high
    streaks = [[(x - 7 + dx + high * 0.5, y - high), (x - 7 + dx + high * 0.5 + wide, y - high),
                (x - 7 + dx - high * 0.5 + wide, y + high), (x - 7 + dx - high * 0.5, y + high)]
               for dx, wide in ((-4.0, 5.0), (5.0, 2.5))]  # fmt: skip
    sketch.fill(faded(overlap(sketch.mask(*streaks), glass), 0.3 if sun else 0.18), (255, 255, 255), False)


def rim_outline(sketch: Sketch, frame: Frame, x: float, y: float, side: int) -> Points:
    """The closed outline about (x, y): a circle, a box, or a drop that is broad above and hangs outwards."""
    wide, high = frame.wide, frame.high
    if sketch.person.glasses == "round":
        return ellipse(x, y, min(wide, high + 1.5), high, 32)
    if sketch.person.glasses == "square":
        return spline([(x - wide, y - high * 0.74), (x - wide * 0.86, y - high), (x + wide * 0.86, y - high),
                       (x + wide, y - high * 0.74), (x + wide * 0.95, y + high * 0.66), (x + wide * 0.74, y + high),
                       (x - wide * 0.74, y + high), (x - wide * 0.95, y + high * 0.66)])  # fmt: skip
    drop = [(-1.0, -0.62), (-0.8, -0.98), (0.2, -1.02), (1.05, -0.95), (1.16, -0.4), (0.98, 0.62), (0.45, 1.15),
            (-0.35, 1.02), (-0.88, 0.2)]  # fmt: skip
    return spline([(x + side * wide * px, y + high * py) for px, py in drop])

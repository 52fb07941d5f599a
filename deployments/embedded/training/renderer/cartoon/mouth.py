"""The mouth of a cartoon: narrow or wide, thin or full, closed or open with one white band of teeth."""

from dataclasses import dataclass

from PIL import Image

from deployments.embedded.training.renderer.cartoon.proportions import Proportions
from deployments.embedded.training.renderer.drawing import (
    Points,
    Sketch,
    darker,
    ellipse,
    lighter,
    overlap,
    smooth,
    spline,
)
from deployments.embedded.training.renderer.parts import TEETH
from deployments.embedded.training.renderer.portrait import Colour, Expression, between

HALF: dict[Expression, float] = {"serious": 17.5, "neutral": 18.0, "smiling": 21.5, "laughing": 22.5, "surprised": 9.0}
CURVE: dict[Expression, float] = {"serious": -2.0, "neutral": 1.5, "smiling": 7.5, "laughing": 5.0, "surprised": 0.0}
INSIDE: Colour = (110, 30, 38)


@dataclass(frozen=True)
class Mouth:
    """Its middle, half its width, and how full its lips are, in drawing units."""

    x: float
    y: float
    half: float
    full: float


def draw_mouth(sketch: Sketch, face: Proportions, mask: Image.Image) -> None:
    """Closed lips, or an open mouth where the person laughs or is surprised; shines stay within `mask`."""
    person = sketch.person
    full = 1.8 + 5.0 * person.lips + (0.7 if person.gender == "woman" else 0.0) - 1.0 * face.aged
    width = (0.66 + 0.68 * person.mouth_width) * (1 - 0.14 * face.childlike)
    mouth = Mouth(
        x=sketch.feature_x(0) + 1.5 * person.yaw,
        y=sketch.face_y + face.mouth,
        half=HALF[person.expression] * (width if person.expression != "surprised" else 0.5 + 0.5 * width),
        full=max(full, 1.6),
    )
    if person.expression == "laughing":
        draw_laugh(sketch, mouth)
    elif person.expression == "surprised":
        draw_gasp(sketch, mouth)
    else:
        draw_lips(sketch, mouth, mask)


def lip_colour(sketch: Sketch) -> Colour:
    """The skin's, mixed with red; women's are redder."""
    skin = sketch.person.skin
    if sketch.person.gender == "woman":
        return between(skin, (200, 52, 72), 0.6)
    return between(skin, (160, 62, 60), 0.42)


def draw_lips(sketch: Sketch, mouth: Mouth, mask: Image.Image) -> None:
    """Upper and lower lip and the line between them, curved as the expression says."""
    x, y, half, full, lip = mouth.x, mouth.y, mouth.half, mouth.full, lip_colour(sketch)
    curve = CURVE[sketch.person.expression]
    middle = [(x - half, y - curve * 0.6), (x - half * 0.5, y + curve * 0.26), (x, y + curve * 0.5),
              (x + half * 0.5, y + curve * 0.26), (x + half, y - curve * 0.6)]  # fmt: skip
    above = [(x + half * 0.34, y + curve * 0.3 - full * 1.05), (x, y + curve * 0.5 - full * 0.65),
             (x - half * 0.34, y + curve * 0.3 - full * 1.05)]  # fmt: skip
    below = [(x - half * 0.52, y + curve * 0.3 + full * 0.9), (x, y + curve * 0.5 + full * 1.6),
             (x + half * 0.52, y + curve * 0.3 + full * 0.9)]  # fmt: skip
    sketch.shape([*smooth(middle), *smooth([middle[-1], *above, middle[0]])], darker(lip, 0.12))
    sketch.shape([*smooth(middle), *smooth([middle[-1], *reversed(below), middle[0]])], lip)
    shine = sketch.mask(ellipse(x - 2, y + curve * 0.5 + full * 0.95, half * 0.32, full * 0.42))
    sketch.soften(shine, lighter(lip, 0.5), 1.2, 0.6, within=mask)
    sketch.stroke(smooth(middle), darker(lip, 0.62), 4.0)


def draw_laugh(sketch: Sketch, mouth: Mouth) -> None:
    """A D as wide as the mouth: lips, the dark inside, a tongue, and the upper teeth as one band."""
    x, y, half, full = mouth.x, mouth.y - 1.5, mouth.half, mouth.full * 0.75
    sketch.shape(grown(x, y, half + full, full), lip_colour(sketch))
    opening = sketch.mask(grown(x, y, half, 0.0))
    sketch.fill(opening, INSIDE, solid=False, part=TEETH)
    tongue = sketch.mask(ellipse(x, y + 17, half * 0.5, 6))
    sketch.fill(overlap(tongue, opening), (222, 108, 112), solid=False)
    band = smooth([(x - half, y - 3.0), (x, y + 2.5), (x + half, y - 3.0)])
    teeth = sketch.mask([*band, (x + half, y + 4.0), *smooth([(x + half, y + 4), (x, y + 9.5), (x - half, y + 4)])])
    sketch.fill(overlap(teeth, opening), (252, 251, 248), solid=False)


def grown(x: float, y: float, half: float, more: float) -> Points:
    """The open mouth's outline, `more` larger all round."""
    top = smooth([(x - half, y - 4.0 - more * 0.4), (x, y + 2.0 - more), (x + half, y - 4.0 - more * 0.4)])
    low = smooth([(x + half, y - 4.0 - more * 0.4), (x + half * 0.66, y + 10.0 + more), (x, y + 15.5 + more),
                  (x - half * 0.66, y + 10.0 + more), (x - half, y - 4.0 - more * 0.4)])  # fmt: skip
    return top + low


def draw_gasp(sketch: Sketch, mouth: Mouth) -> None:
    """A round open mouth with a tongue and no teeth."""
    x, y, full = mouth.x, mouth.y, mouth.full * 0.9
    sketch.shape(spline(ellipse(x, y + 2, mouth.half + full, 9 + full, 12)), lip_colour(sketch))
    opening = sketch.mask(ellipse(x, y + 2, mouth.half, 9))
    sketch.fill(opening, INSIDE, solid=False, part=TEETH)
    tongue = sketch.mask(ellipse(x, y + 11, 7, 5))
    sketch.fill(overlap(tongue, opening), (222, 108, 112), solid=False)

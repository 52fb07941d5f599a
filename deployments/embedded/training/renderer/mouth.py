"""Mouth of a cartoon: one bold line on full lips, or open with one white band of teeth."""

from PIL import Image, ImageChops

from deployments.embedded.training.renderer.drawing import Points, Sketch, darker, ellipse, lighter, smooth, spline
from deployments.embedded.training.renderer.parts import TEETH
from deployments.embedded.training.renderer.portrait import Colour, Expression, between

BELOW = 45.0  # of the mouth's middle from the face's
HALF: dict[Expression, float] = {"serious": 17.5, "neutral": 18.0, "smiling": 21.5, "laughing": 22.5, "surprised": 9.0}
CURVE: dict[Expression, float] = {"serious": -2.0, "neutral": 1.5, "smiling": 7.5, "laughing": 5.0, "surprised": 0.0}
INSIDE: Colour = (110, 30, 38)


def draw_mouth(sketch: Sketch, face: Image.Image) -> None:
    """Closed lips, or an open mouth where the person laughs or is surprised; shines stay within the mask `face`."""
    x, y = sketch.feature_x(0) + 1.5 * sketch.person.yaw, sketch.face_y + BELOW
    if sketch.person.expression == "laughing":
        draw_laugh(sketch, x, y - 1.5)
    elif sketch.person.expression == "surprised":
        draw_gasp(sketch, x, y)
    else:
        draw_lips(sketch, x, y, face)


def lip_colour(sketch: Sketch) -> Colour:
    """The skin's, mixed with red; women's are redder."""
    skin = sketch.person.skin
    if sketch.person.gender == "woman":
        return between(skin, (200, 52, 72), 0.6)
    return between(skin, (160, 62, 60), 0.42)


def draw_lips(sketch: Sketch, x: float, y: float, face: Image.Image) -> None:
    """Upper and lower lip and the line between them, about (x, y), curved as the expression says."""
    person, lip = sketch.person, lip_colour(sketch)
    half, curve = HALF[person.expression], CURVE[person.expression]
    full = 3.4 + 1.6 * person.lips + (1.0 if person.gender == "woman" else 0.0)
    middle = [(x - half, y - curve * 0.6), (x - half * 0.5, y + curve * 0.26), (x, y + curve * 0.5),
              (x + half * 0.5, y + curve * 0.26), (x + half, y - curve * 0.6)]  # fmt: skip
    above = [(x + half * 0.35, y + curve * 0.3 - full), (x, y + curve * 0.5 - full * 0.7),
             (x - half * 0.35, y + curve * 0.3 - full)]  # fmt: skip
    below = [(x - half * 0.5, y + curve * 0.3 + full), (x, y + curve * 0.5 + full * 1.6),
             (x + half * 0.5, y + curve * 0.3 + full)]  # fmt: skip
    sketch.shape([*smooth(middle), *smooth([middle[-1], *above, middle[0]])], darker(lip, 0.1))
    sketch.shape([*smooth(middle), *smooth([middle[-1], *reversed(below), middle[0]])], lip)
    shine = sketch.mask(ellipse(x - 3, y + curve * 0.5 + full * 0.9, 6, 1.8))
    sketch.soften(shine, lighter(lip, 0.5), 1.5, 0.6, within=face)
    sketch.stroke(smooth(middle), darker(lip, 0.62), 4.2)


def draw_laugh(sketch: Sketch, x: float, y: float) -> None:
    """A wide D: lips, the dark inside, a tongue, and the upper teeth as one band."""
    half, full = HALF["laughing"], 2.4 + 1.2 * sketch.person.lips
    lips = grown(x, y, half + full, full)
    sketch.shape(lips, lip_colour(sketch))
    opening = sketch.mask(grown(x, y, half, 0.0))
    sketch.fill(opening, INSIDE, solid=False, part=TEETH)
    tongue = sketch.mask(ellipse(x, y + 17, 11, 6))
    sketch.fill(ImageChops.multiply(tongue, opening), (222, 108, 112), solid=False)
    band: Points = smooth([(x - half, y - 3.0), (x, y + 2.5), (x + half, y - 3.0)])
    teeth = sketch.mask([*band, (x + half, y + 4.0), *smooth([(x + half, y + 4), (x, y + 9.5), (x - half, y + 4)])])
    sketch.fill(ImageChops.multiply(teeth, opening), (252, 251, 248), solid=False)


def grown(x: float, y: float, half: float, more: float) -> Points:
    """The open mouth's outline, `more` larger all round."""
    top = smooth([(x - half, y - 4.0 - more * 0.4), (x, y + 2.0 - more), (x + half, y - 4.0 - more * 0.4)])
    low = smooth([(x + half, y - 4.0 - more * 0.4), (x + half * 0.66, y + 10.0 + more), (x, y + 15.5 + more),
                  (x - half * 0.66, y + 10.0 + more), (x - half, y - 4.0 - more * 0.4)])  # fmt: skip
    return top + low


def draw_gasp(sketch: Sketch, x: float, y: float) -> None:
    """A round open mouth about (x, y) with a tongue and no teeth."""
    full = 3.0 + 1.4 * sketch.person.lips
    half = HALF["surprised"]
    sketch.shape(spline(ellipse(x, y + 2, half + full, 10 + full, 12)), lip_colour(sketch))
    opening = sketch.mask(ellipse(x, y + 2, half, 10))
    sketch.fill(opening, INSIDE, solid=False, part=TEETH)
    tongue = sketch.mask(ellipse(x, y + 11, 7, 5))
    sketch.fill(ImageChops.multiply(tongue, opening), (222, 108, 112), solid=False)

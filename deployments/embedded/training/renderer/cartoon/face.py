"""The bare face of a cartoon: outline, skin, cheeks, wrinkles."""

import numpy as np
from PIL import Image

from deployments.embedded.training.renderer.cartoon.proportions import Proportions
from deployments.embedded.training.renderer.drawing import (
    Array,
    Points,
    Sketch,
    arc,
    bump,
    ellipse,
    light_field,
    lighter,
    mirrored,
    shaded,
    smooth,
    spline,
    tinted,
)
from deployments.embedded.training.renderer.portrait import between


def face_outline(sketch: Sketch, face: Proportions, grown: float = 1.0) -> Points:
    """The head's closed outline; `grown` is for what lies upon it, a beard."""
    person = sketch.person
    cheek = 37.5 + 7.5 * person.cheeks
    sunk = 2.5 * face.aged + 3.0 * face.childlike
    corner = min(25.0 + 15.0 * person.jaw + sunk + 4.0 * max(0.0, person.cheeks - 0.5), cheek - 1.5)
    right = [(0.0, -57.0), (26.0, -50.5), (40.0, -29.0), (42.3, -5.0), (cheek, 17.0), (corner, face.chin * 0.66),
             (11.0 + 14.0 * person.jaw + 4.0 * face.childlike, face.chin * 0.93), (0.0, face.chin + 1)]  # fmt: skip
    return sketch.skull([(x * grown, y * grown) for x, y in spline(mirrored(right))])


def draw_face(sketch: Sketch, face: Proportions) -> Image.Image:
    """The bare face; returns its mask, within which blush, beard and shadows stay."""
    mask = sketch.mask(face_outline(sketch, face))
    sketch.fill(mask, tinted(sketch.person.skin, skin_light(sketch, face)))
    draw_cheeks(sketch, face, mask)
    draw_wrinkles(sketch, face, mask)
    return mask


def skin_light(sketch: Sketch, face: Proportions) -> Array:
    """On the shading grid: bright on forehead and cheeks, darker about the eyes and under the chin."""
    x, y = sketch.feature_x(0), sketch.face_y
    field = light_field(sketch, x, y, 48 * face.skull[0], 66 * face.skull[1], 0.66) + 0.07
    field += 0.10 * bump(x - 6, y - 34, 30, 14)
    field -= 0.14 * bump(x, y + face.chin * face.skull[1] - 4, 16, 6)
    for side in (-1, 1):
        field -= 0.10 * bump(sketch.feature_x(side * face.apart), y + face.eyes - 10, 20, 14)
    return field


def draw_cheeks(sketch: Sketch, face: Proportions, mask: Image.Image) -> None:
    """Blush, stronger for women and children, and a light upon full cheeks."""
    person = sketch.person
    strength = (0.26 if person.gender == "woman" else 0.12) + 0.18 * face.childlike
    out, down = face.apart + 10, face.nose + 1
    places = [(sketch.feature_x(side * out), sketch.face_y + down) for side in (-1, 1)]
    blush = sketch.mask(*(ellipse(x, y, 12, 8) for x, y in places))
    sketch.soften(blush, between(person.skin, (226, 84, 78), 0.5), 5, strength, within=mask)
    full = float(np.clip(1.6 * person.cheeks - 0.4, 0, 1))
    apples = sketch.mask(*(ellipse(x - 3, y - 5, 4 + 5 * full, 3 + 3 * full) for x, y in places))
    sketch.soften(apples, lighter(person.skin, 0.5), 3, 0.55 * full, within=mask)
    hollow = float(np.clip(0.45 - person.cheeks, 0, 0.45))
    caves = sketch.mask(*(ellipse(x + 2 * np.sign(x - 128), y + 10, 7, 15) for x, y in places))
    sketch.soften(caves, shaded(person.skin, 0.3), 6, 1.3 * hollow, within=mask)


def draw_wrinkles(sketch: Sketch, face: Proportions, mask: Image.Image) -> None:
    """Folds beside the mouth come first, then the forehead's, crow's feet and bags below the eyes."""
    x, y, worn = sketch.feature_x(0), sketch.face_y, sketch.person.wrinkles
    nose, mouth = y + face.nose, y + face.mouth
    folds: list[Points] = []
    feet: list[Points] = []
    bags: list[Points] = []
    for side in (-1, 1):
        middle, eye = sketch.feature_x(side * 22), sketch.feature_x(side * face.apart)
        folds.append(
            smooth([(middle - side * 7, nose + 1), (middle + side * 2, nose + 8), (middle + side * 4, mouth + 1)])
        )
        for down, rise in ((-2.0, -5.0), (4.0, 3.0)):
            feet.append([(eye + side * 19, y + face.eyes + down), (eye + side * 26, y + face.eyes + down + rise)])
        bags.append(arc(eye, y + face.eyes + 8, 11, 7, 25, 155))
    lines = [arc(x, y + up + 14, 34, 14, 234, 306) for up in (-42, -34)]
    for group, start, width in ((folds, 0.1, 4.4), (lines, 0.25, 3.6), (feet, 0.35, 3.6), (bags, 0.3, 3.6)):
        opacity = 0.75 * float(np.clip((worn - start) / 0.4, 0, 1))
        if opacity:
            sketch.soften(sketch.line_mask(*group, width=width), shaded(sketch.person.skin, 0.4), 0.7, opacity, mask)

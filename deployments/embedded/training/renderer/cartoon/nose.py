"""The nose of a cartoon: from a button to a broad one with wings."""

from PIL import Image

from deployments.embedded.training.renderer.cartoon.proportions import Proportions
from deployments.embedded.training.renderer.drawing import Sketch, arc, ellipse, lighter, shaded, spline


def draw_nose(sketch: Sketch, face: Proportions, mask: Image.Image) -> None:
    """A shaded bridge, a ball with a light on it, wings and nostrils; all stay within the face's `mask`."""
    person = sketch.person
    size = person.nose_size * (1 - 0.5 * face.childlike) + 0.15 * face.aged
    x, y = sketch.feature_x(0) + 3.0 * person.yaw, sketch.face_y + face.nose
    wide, high = 6.0 + 8.2 * size, 4.8 + 3.6 * size
    top = sketch.face_y + face.eyes - 6
    bridge = [(x + 2, top), (x + 4 + 2 * size, (top + y) / 2), (x + wide * 0.9, y), (x + 1, y - 2)]
    sketch.soften(sketch.mask(spline(bridge)), shaded(person.skin, 0.3), 2.5, 0.35 + 0.35 * size, within=mask)
    under = sketch.mask(ellipse(x + 0.5, y + high * 0.75, wide + 0.5, 3.8 + size))
    sketch.soften(under, shaded(person.skin, 0.46), 1.8, 0.95, within=mask)
    ball = sketch.mask(
        ellipse(x, y, wide * 0.68, high), *(wing(x + side * wide * 0.72, y + 1, size) for side in (-1, 1))
    )
    sketch.soften(ball, lighter(person.skin, 0.12), 1.2, 0.95, within=mask)
    sides = [
        arc(x + side * wide * 0.7, y + 0.5, 4.2, 5.2, *((-70, 75) if side > 0 else (105, 250))) for side in (-1, 1)
    ]
    sketch.soften(sketch.line_mask(*sides, width=3.2), shaded(person.skin, 0.5), 0.7, 0.35 + 0.5 * size, within=mask)
    nostrils = [ellipse(x + side * wide * 0.42, y + high * 0.78, 2.0 + 1.4 * size, 1.8, 12) for side in (-1, 1)]
    sketch.soften(sketch.mask(*nostrils), shaded(person.skin, 0.66), 0.7, 0.9, within=mask)
    shine = sketch.mask(ellipse(x - 2, y - high * 0.35, 2.6 + 1.4 * size, 2.4))
    sketch.soften(shine, lighter(person.skin, 0.6), 1.6, 0.8, within=mask)


def wing(x: float, y: float, size: float) -> list[tuple[float, float]]:
    """One side of the nose's end."""
    return ellipse(x, y, 2.6 + 1.6 * size, 3.0 + 1.5 * size, 16)

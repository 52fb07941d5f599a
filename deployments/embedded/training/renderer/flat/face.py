"""The bare face of a flat drawing: outline, skin, blush, wrinkles."""

from PIL import Image

from deployments.embedded.training.renderer.drawing import (
    FACE_X,
    Array,
    Points,
    Sketch,
    arc,
    bump,
    darker,
    ellipse,
    light_field,
    mirrored,
    spline,
    tinted,
)
from deployments.embedded.training.renderer.portrait import between


def face_outline(sketch: Sketch, grown: float = 1.0) -> Points:
    """The skull's closed outline; `grown` is for what lies upon it, a beard."""
    long = 54 + 6 * sketch.person.face_length
    jaw = 25 + 9 * sketch.person.jaw
    right = [(0.0, -57.0), (26.0, -50.0), (40.0, -28.0), (42.5, -4.0), (40.0, 18.0), (jaw + 2, long * 0.66),
             (jaw * 0.52, long * 0.93), (0.0, long + 1)]  # fmt: skip
    return sketch.skull([(x * grown, y * grown) for x, y in spline(mirrored(right))])


def draw_face(sketch: Sketch) -> Image.Image:
    """The bare face; returns its mask, within which blush, beard and shadows stay."""
    face = sketch.mask(face_outline(sketch))
    sketch.fill(face, tinted(sketch.person.skin, skin_light(sketch)))
    draw_blush(sketch, face)
    if sketch.person.age_name == "old":
        draw_wrinkles(sketch)
    return face


def skin_light(sketch: Sketch) -> Array:
    """On the shading grid: sockets, chin and hairline are the darker the more contrast the look has."""
    depth = sketch.look.contrast
    x, y = sketch.feature_x(0), sketch.face_y
    field = light_field(sketch, x, y, 46, 62, depth)
    field += 0.10 * bump(x - 3, y - 30, 22, 11) + 0.12 * bump(x - 2, y + 8, 5, 16)
    for side in (-1, 1):
        field += 0.12 * bump(sketch.feature_x(side * 22), y + 17, 11, 8)
        field -= 0.30 * depth * bump(sketch.feature_x(side * 18), y - 4, 15, 10)
    field -= 0.10 * depth * bump(x, y + 47, 12, 4) + 0.12 * depth * bump(FACE_X, y - 48, 40, 12)
    return field


def draw_blush(sketch: Sketch, face: Image.Image) -> None:
    """Red cheeks within the mask `face`, stronger for women."""
    strength = 0.34 if sketch.person.gender == "woman" else 0.2
    cheeks = [ellipse(sketch.feature_x(side * 25), sketch.face_y + 19, 10, 7) for side in (-1, 1)]
    blush = between(sketch.person.skin, (226, 84, 78), 0.5)
    sketch.soften(sketch.mask(*cheeks), blush, 6, strength, within=face)


def draw_wrinkles(sketch: Sketch) -> None:
    """A line beside each corner of the mouth and two across the forehead."""
    line, y = darker(sketch.person.skin, 0.2), sketch.face_y
    for side in (-1, 1):
        x = sketch.feature_x(side * 21)
        sketch.stroke([(x - side * 8, y + 21), (x - side * 2, y + 28), (x - side * 1, y + 35)], line, 1.0)
    for up in (-36, -31):
        sketch.stroke(arc(sketch.feature_x(0), y + up + 6, 16, 6, 220, 320), line, 0.9)

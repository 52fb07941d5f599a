"""The head without its hair: skull, ears, skin, nose."""

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
    lighter,
    mirrored,
    shaded,
    spline,
    tinted,
)
from deployments.embedded.training.renderer.portrait import between


def face_outline(sketch: Sketch, grown: float = 1.0) -> Points:
    """The skull's closed outline; `grown` is for what lies upon it, a beard."""
    person = sketch.person
    long = 54 + 6 * person.face_length
    jaw = 25 + 9 * person.jaw
    cheek = 41.5 if sketch.look.cartoon else 40.0
    right = [
        (0.0, -57.0),
        (26.0, -50.0),
        (40.0, -28.0),
        (42.5, -4.0),
        (cheek, 18.0),
        (jaw + (8 if sketch.look.cartoon else 2), long * 0.66),
        (jaw * (0.6 if sketch.look.cartoon else 0.52), long * 0.93),
        (0.0, long + 1),
    ]
    return sketch.skull([(x * grown, y * grown) for x, y in spline(mirrored(right))])


def draw_ears(sketch: Sketch) -> None:
    """Before the face, which covers their inner halves; on the side that the head turns to less is seen."""
    person = sketch.person
    for side in (-1, 1):
        x = side * (42.5 - 2.0 * side * person.yaw)
        skin = tinted(person.skin, light_field(sketch, FACE_X, sketch.face_y, 74, 80, 0.7 * sketch.look.contrast))
        sketch.fill(sketch.mask(sketch.skull(ellipse(x, 6, 8, 12))), skin)
        sketch.shape(sketch.skull(ellipse(x + side * 1.5, 6, 3.6, 7)), shaded(person.skin, 0.26))


def draw_earrings(sketch: Sketch) -> None:
    """A gold ball with a highlight below each ear, whatever hair is there."""
    gold = (236, 190, 84)
    for side in (-1, 1):
        ((x, y),) = sketch.skull([(side * (44.5 - 2.0 * side * sketch.person.yaw), 23.0)])
        high = 5.5 if sketch.look.cartoon else 3.0
        sketch.fill(sketch.mask(ellipse(x, y, high, high)), gold)
        sketch.shape(ellipse(x - high * 0.3, y - high * 0.3, high * 0.4, high * 0.4, 12), (255, 240, 190))


def draw_face(sketch: Sketch) -> Image.Image:
    """The bare face; returns its mask, within which blush, beard and shadows stay."""
    face = sketch.mask(face_outline(sketch))
    sketch.fill(face, tinted(sketch.person.skin, cartoon_light(sketch) if sketch.look.cartoon else photo_light(sketch)))
    draw_blush(sketch, face)
    if sketch.person.age_name == "old":
        (draw_folds if sketch.look.cartoon else draw_wrinkles)(sketch)
    return face


def cartoon_light(sketch: Sketch) -> Array:
    """On the shading grid: bright on forehead, nose and cheeks, darker about the eyes and under the chin."""
    x, y = sketch.feature_x(0), sketch.face_y
    field = light_field(sketch, x, y, 62, 76, 0.62) + 0.07
    field += 0.10 * bump(x - 6, y - 34, 30, 14) + 0.06 * bump(x - 2, y + 8, 7, 22)
    field -= 0.12 * bump(x, y + 58, 16, 6)
    for side in (-1, 1):
        field -= 0.10 * bump(sketch.feature_x(side * 25), y - 8, 22, 16)
        field += 0.05 * bump(sketch.feature_x(side * 32), y + 24, 14, 9)
    return field


def photo_light(sketch: Sketch) -> Array:
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
    person, cartoon = sketch.person, sketch.look.cartoon
    strength = (0.34 if person.gender == "woman" else 0.2) * (0.6 if cartoon else 1.0)
    out, down, wide, high = (35, 26, 12, 8) if cartoon else (25, 19, 10, 7)
    cheeks = [ellipse(sketch.feature_x(side * out), sketch.face_y + down, wide, high) for side in (-1, 1)]
    blush = between(person.skin, (226, 84, 78), 0.5)
    sketch.soften(sketch.mask(*cheeks), blush, 6, strength, within=face)


def draw_folds(sketch: Sketch) -> None:
    """Age in a cartoon: one soft fold beside each corner of the mouth."""
    folds: list[Points] = []
    for side in (-1, 1):
        x, y = sketch.feature_x(side * 23), sketch.face_y
        folds.append([(x - side * 6, y + 26), (x + side * 3, y + 34), (x + side * 4, y + 43)])
    sketch.fill(sketch.soft(sketch.line_mask(*folds, width=4), 1.2, 0.7), shaded(sketch.person.skin, 0.36), solid=False)


def draw_wrinkles(sketch: Sketch) -> None:
    """Age in a photo: a line beside each corner of the mouth and two across the forehead."""
    line, y = darker(sketch.person.skin, 0.2), sketch.face_y
    for side in (-1, 1):
        x = sketch.feature_x(side * 21)
        sketch.stroke([(x - side * 8, y + 21), (x - side * 2, y + 28), (x - side * 1, y + 35)], line, 1.0)
    for up in (-36, -31):
        sketch.stroke(arc(sketch.feature_x(0), y + up + 6, 16, 6, 220, 320), line, 0.9)


def draw_nose(sketch: Sketch, face: Image.Image) -> None:
    """A shaded ball with a light on it and two soft nostrils."""
    person = sketch.person
    x, y = sketch.feature_x(0) + 3.0 * person.yaw, sketch.face_y + 25.0
    wide = 9.0 + 3.0 * person.nose_size
    shade = shaded(person.skin, 0.34)
    under = sketch.mask(ellipse(x + 1, y + 5, wide + 1, 5.5))
    sketch.soften(under, shade, 3.0, 0.8, within=face)
    ball = sketch.mask(ellipse(x, y, wide - 1, 6.5))
    sketch.soften(ball, lighter(person.skin, 0.12), 2.5, 0.9, within=face)
    nostrils = [ellipse(x + side * wide * 0.5, y + 5.5, 3.0, 2.2, 12) for side in (-1, 1)]
    sketch.soften(sketch.mask(*nostrils), shaded(person.skin, 0.62), 1.0, 0.9, within=face)
    shine = sketch.mask(ellipse(x - 2.5, y - 3, 4, 3))
    sketch.soften(shine, lighter(person.skin, 0.6), 2.0, 0.8, within=face)

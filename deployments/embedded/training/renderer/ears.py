"""Ears and what hangs from them."""

from deployments.embedded.training.renderer.drawing import FACE_X, Sketch, ellipse, light_field, shaded, tinted


def draw_ears(sketch: Sketch) -> None:
    """Before the face, which covers their inner halves; on the side that the head turns to less is seen."""
    person = sketch.person
    for side in (-1, 1):
        x = side * (42.5 - 2.0 * side * person.yaw)
        skin = tinted(person.skin, light_field(sketch, FACE_X, sketch.face_y, 74, 80, 0.7 * sketch.look.contrast))
        sketch.fill(sketch.mask(sketch.skull(ellipse(x, 6, 8, 12))), skin)
        sketch.shape(sketch.skull(ellipse(x + side * 1.5, 6, 3.6, 7)), shaded(person.skin, 0.26))


def draw_earrings(sketch: Sketch, radius: float) -> None:
    """A gold ball of this radius, in drawing units, with a highlight below each ear, whatever hair is there."""
    gold = (236, 190, 84)
    for side in (-1, 1):
        ((x, y),) = sketch.skull([(side * (44.5 - 2.0 * side * sketch.person.yaw), 23.0)])
        sketch.fill(sketch.mask(ellipse(x, y, radius, radius)), gold)
        light = ellipse(x - radius * 0.3, y - radius * 0.3, radius * 0.4, radius * 0.4, 12)
        sketch.shape(light, (255, 240, 190))

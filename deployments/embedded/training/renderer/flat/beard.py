"""Beards of a flat drawing, which differ by their outlines."""

from PIL import Image, ImageChops

from deployments.embedded.training.renderer.drawing import (
    FACE_X,
    Points,
    Sketch,
    darker,
    ellipse,
    light_field,
    mirrored,
    spline,
    tinted,
)
from deployments.embedded.training.renderer.flat.face import face_outline
from deployments.embedded.training.renderer.portrait import Beard

# right halves, in units of the skull
OUTLINES: dict[Beard, Points] = {
    "stubble": [(0.0, 25.0), (13.0, 25.0), (24.0, 31.0), (34.0, 16.0), (47.0, 0.0), (48.0, 30.0), (34.0, 62.0),
                (0.0, 74.0)],
    "full": [(0.0, 26.0), (12.0, 26.0), (22.0, 32.0), (31.0, 22.0), (38.0, 2.0), (47.0, -12.0), (49.0, 26.0),
             (36.0, 64.0), (0.0, 78.0)],
    "goatee": [(0.0, 25.5), (12.0, 26.5), (21.0, 36.0), (20.0, 52.0), (13.0, 64.0), (0.0, 68.0)],
    "moustache": [(0.0, 25.5), (10.0, 24.0), (20.0, 29.0), (27.0, 36.5), (17.0, 36.5), (8.0, 34.0), (0.0, 33.5)],
}  # fmt: skip


def draw_beard(sketch: Sketch, face: Image.Image) -> None:
    """Over the bare face, before its features; a full beard may reach beyond the face's mask, stubble does not."""
    person = sketch.person
    if person.beard == "none":
        return
    outline = spline(mirrored(OUTLINES[person.beard]))
    turn = sketch.feature_x(0) - FACE_X
    mask = sketch.mask([(x + turn, y) for x, y in sketch.skull(outline)])
    if person.beard == "stubble":
        sketch.soften(mask, darker(sketch.hair, 0.1), 3, 0.4, within=face)
        return
    if person.beard == "goatee":
        ((x, y),) = sketch.skull([(0.0, 38.0)])
        mask = ImageChops.subtract(mask, sketch.mask(ellipse(x + turn, y, 11.0, 3.5)))
    mask = ImageChops.multiply(mask, sketch.mask(face_outline(sketch, grown=1.075)))
    field = light_field(sketch, FACE_X + turn, sketch.face_y + 24, 66, 66, 0.7) + 0.06
    sketch.fill(mask, tinted(sketch.hair, field))

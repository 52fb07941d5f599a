"""Beards of a cartoon, which follow jaw, chin and mouth and have strands."""

from PIL import Image, ImageChops

from deployments.embedded.training.renderer.cartoon.face import face_outline
from deployments.embedded.training.renderer.cartoon.proportions import Proportions
from deployments.embedded.training.renderer.cartoon.strands import draw_grooves, fan
from deployments.embedded.training.renderer.drawing import (
    FACE_X,
    Points,
    Sketch,
    darker,
    ellipse,
    light_field,
    mirrored,
    overlap,
    spline,
    tinted,
)
from deployments.embedded.training.renderer.portrait import Beard

CHIN = 57.0  # of the face that the outlines are for
# right halves, in units of the skull
OUTLINES: dict[Beard, Points] = {
    "stubble": [(0.0, 27.0), (13.0, 27.0), (24.0, 33.0), (34.0, 16.0), (47.0, 0.0), (48.0, 30.0), (34.0, 62.0),
                (0.0, 74.0)],
    "full": [(0.0, 27.0), (12.0, 26.5), (22.0, 33.0), (30.0, 24.0), (37.0, 4.0), (47.0, -12.0), (51.0, 26.0),
             (40.0, 64.0), (0.0, 82.0)],
    "goatee": [(0.0, 27.0), (12.0, 27.0), (20.0, 33.0), (21.0, 42.0), (19.0, 54.0), (13.0, 66.0), (0.0, 72.0)],
    "moustache": [(0.0, 27.0), (8.0, 25.5), (18.0, 28.5), (29.0, 37.0), (26.0, 39.5), (14.0, 37.5), (5.0, 36.0),
                  (0.0, 34.5)],
}  # fmt: skip


def draw_beard(sketch: Sketch, face: Proportions, mask: Image.Image) -> None:
    """Over the bare face, before its features; a full beard may reach beyond the face's mask, stubble does not."""
    kind = sketch.person.beard
    if kind == "none":
        return
    stretch, turn = face.chin / CHIN, sketch.feature_x(0) - FACE_X

    def placed(points: Points) -> Points:
        return [(x + turn, y) for x, y in sketch.skull([(px, py * stretch) for px, py in points])]

    beard = sketch.mask(placed(spline(mirrored(OUTLINES[kind]))))
    if kind == "stubble":
        sketch.soften(beard, darker(sketch.hair, 0.1), 2.4, 0.46, within=mask)
        return
    if kind == "goatee":
        beard = ImageChops.subtract(beard, sketch.mask(placed(ellipse(0.0, 39.5, 13.5, 4.6))))
    beard = overlap(beard, sketch.mask(face_outline(sketch, face, 1.06 if kind == "goatee" else 1.1)))
    field = light_field(sketch, FACE_X + turn, sketch.face_y + 24, 66, 66, 0.7) + 0.06
    sketch.fill(beard, tinted(sketch.hair, field))
    draw_grooves(sketch, [placed(strand) for strand in strands_of(kind)], beard, 0.7)


def strands_of(kind: Beard) -> list[Points]:
    """Downwards on cheeks and chin, outwards on the upper lip."""
    lip = [(2.0, 28.0), (12.0, 30.5), (24.0, 37.0)]
    sides = [[(x, y) for x, y in lip], [(-x, y) for x, y in lip]]
    if kind == "moustache":
        return sides
    chin = fan([(-14.0, 47.0), (-17.0, 60.0), (-9.0, 72.0)], [(14.0, 47.0), (17.0, 60.0), (9.0, 72.0)], 4)
    if kind == "goatee":
        return [*sides, *chin]
    cheek = [(39.0, 6.0), (37.0, 30.0), (27.0, 56.0)]
    inner = [(31.0, 26.0), (28.0, 44.0), (20.0, 62.0)]
    right = fan(cheek, inner, 2)
    return [*sides, *chin, *right, *([(-x, y) for x, y in line] for line in right)]

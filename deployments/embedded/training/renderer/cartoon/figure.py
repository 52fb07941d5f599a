"""A cartoon with every trait of its person, drawn back to front."""

from deployments.embedded.training.renderer.cartoon.eyes import draw_brows, draw_eyes
from deployments.embedded.training.renderer.cartoon.eyewear import draw_glasses
from deployments.embedded.training.renderer.cartoon.face import draw_face
from deployments.embedded.training.renderer.cartoon.facial_hair import draw_beard
from deployments.embedded.training.renderer.cartoon.hair import Hair
from deployments.embedded.training.renderer.cartoon.headgear import draw_hat, draw_scarf_behind
from deployments.embedded.training.renderer.cartoon.mouth import draw_mouth
from deployments.embedded.training.renderer.cartoon.nose import draw_nose
from deployments.embedded.training.renderer.cartoon.proportions import Proportions
from deployments.embedded.training.renderer.clothes import draw_body
from deployments.embedded.training.renderer.drawing import Sketch
from deployments.embedded.training.renderer.ears import draw_earrings, draw_ears
from deployments.embedded.training.renderer.parts import BACKGROUND, BEARD, BROW, FRAME, HAIR, HAT, LIPS, SKIN

EARRING = 5.5  # radius, in drawing units


def draw_figure(sketch: Sketch) -> None:
    """Draws all of the person, each part over the ones before, onto the sketch; ears under hair are left out."""
    person, face = sketch.person, Proportions.of(sketch.person)
    sketch.skull_size = face.skull
    hair = Hair(sketch)
    sketch.part = HAIR
    hair.draw_back()
    sketch.part = BACKGROUND
    draw_body(sketch, *face.build(person.gender))
    if person.hat == "headscarf":
        sketch.part = HAT
        draw_scarf_behind(sketch, face)
    sketch.part = SKIN
    if not hair.over_ears:
        draw_ears(sketch)
    mask = draw_face(sketch, face)
    sketch.part = SKIN if person.beard == "stubble" else BEARD
    draw_beard(sketch, face, mask)
    sketch.part = SKIN
    draw_eyes(sketch, face)
    draw_nose(sketch, face, mask)
    sketch.part = LIPS
    draw_mouth(sketch, face, mask)
    sketch.part = BROW
    draw_brows(sketch, face)
    sketch.part = HAIR
    hair.draw_front(mask)
    sketch.part = HAT
    draw_hat(sketch, face)
    sketch.part = BACKGROUND
    if person.earrings and not hair.covered:
        draw_earrings(sketch, EARRING)
    sketch.part = FRAME
    draw_glasses(sketch, face)

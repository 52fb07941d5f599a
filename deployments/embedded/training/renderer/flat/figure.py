"""A flat drawing of a person, back to front."""

from PIL import Image

from deployments.embedded.training.renderer.clothes import BUILDS, draw_body
from deployments.embedded.training.renderer.drawing import Look, Sketch
from deployments.embedded.training.renderer.ears import draw_earrings, draw_ears
from deployments.embedded.training.renderer.flat.beard import draw_beard
from deployments.embedded.training.renderer.flat.face import draw_face
from deployments.embedded.training.renderer.flat.features import draw_features
from deployments.embedded.training.renderer.flat.glasses import draw_glasses
from deployments.embedded.training.renderer.flat.hair import draw_back_hair, draw_front_hair
from deployments.embedded.training.renderer.flat.simplified import simplified
from deployments.embedded.training.renderer.flat.styles import hair_shape
from deployments.embedded.training.renderer.hats import draw_hat
from deployments.embedded.training.renderer.portrait import Portrait

EARRING = 3.0  # radius, in drawing units


def draw_flat(portrait: Portrait, size: int, look: Look) -> tuple[Image.Image, Image.Image]:
    """The picture (RGB), before the portrait's plain colour, and the person's alpha (L); ears under hair left out."""
    sketch = Sketch(simplified(portrait), size, look)
    person = sketch.person
    hair = hair_shape(person.hair_style, person.parting < 0)
    draw_back_hair(sketch, hair)
    draw_body(sketch, *BUILDS[person.gender])
    if not hair.over_ears:
        draw_ears(sketch)
    face = draw_face(sketch)
    draw_beard(sketch, face)
    draw_features(sketch)
    draw_front_hair(sketch, hair, face)
    draw_hat(sketch)
    if person.earrings:
        draw_earrings(sketch, EARRING)
    draw_glasses(sketch)
    picture, alpha, _ = sketch.shrunk(size)
    return picture, alpha

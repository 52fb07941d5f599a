"""The figure, drawn back to front."""

from PIL import Image, ImageChops, ImageFilter

from deployments.embedded.training.renderer import fine_features
from deployments.embedded.training.renderer.beard import draw_beard
from deployments.embedded.training.renderer.clothes import draw_body
from deployments.embedded.training.renderer.drawing import CARTOON, GRID, UNITS, Look, Sketch
from deployments.embedded.training.renderer.eyes import draw_brows, draw_eyes
from deployments.embedded.training.renderer.glasses import draw_glasses
from deployments.embedded.training.renderer.hair import draw_back_hair, draw_front_hair, shape_of
from deployments.embedded.training.renderer.hats import draw_hat
from deployments.embedded.training.renderer.head import draw_earrings, draw_ears, draw_face, draw_nose
from deployments.embedded.training.renderer.mouth import draw_mouth
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.renderer.simplified import simplified

RIM_LIGHT = (196, 206, 228)
RIM_DEPTH = 3.6  # how far inwards the rim light fades, in drawing units


def render(portrait: Portrait, size: int = 256, look: Look = CARTOON) -> tuple[Image.Image, Image.Image]:
    """The picture (RGB) and the person's alpha (L)."""
    sketch = Sketch(simplified(portrait), size, look)
    draw_figure(sketch)
    small = (size, size)
    return sketch.picture.resize(small, Image.Resampling.BOX), sketch.alpha.resize(small, Image.Resampling.BOX)


def draw_figure(sketch: Sketch) -> None:
    """Draws all of the person, each part over the ones before, onto the sketch; ears under hair are left out."""
    draw_back_hair(sketch)
    draw_body(sketch)
    if not shape_of(sketch).over_ears:
        draw_ears(sketch)
    face = draw_face(sketch)
    draw_beard(sketch, face)
    if sketch.look.cartoon:
        draw_eyes(sketch)
        draw_nose(sketch, face)
        draw_mouth(sketch, face)
        draw_brows(sketch)
    else:
        fine_features.draw_features(sketch)
    draw_front_hair(sketch, face)
    draw_hat(sketch)
    if sketch.person.earrings:
        draw_earrings(sketch)
    draw_glasses(sketch)
    if sketch.look.cartoon:
        draw_rim_light(sketch)


def draw_rim_light(sketch: Sketch) -> None:
    """A cartoon's dark hair and clothes stand out from a black background by the light on their edges."""
    small = sketch.alpha.resize((GRID, GRID), Image.Resampling.BOX)
    inside = small.filter(ImageFilter.GaussianBlur(RIM_DEPTH * GRID / UNITS))
    near = inside.point([min(255, max(0, round((215 - i) * 2.0))) for i in range(256)])
    near = near.resize((sketch.side, sketch.side), Image.Resampling.BILINEAR)
    lit = ImageChops.multiply(ImageChops.multiply(near, sketch.rim), sketch.alpha)
    sketch.fill(lit, RIM_LIGHT, solid=False)

"""Pictures of a person: cartoons with every trait, cartoons as the shipped weights know them, and flat drawings.

The shipped weights and the benchmark's judge were trained before cartoons had every trait: what is held against them
is drawn with the look SHIPPED, what the next training learns with CARTOON.
"""

from PIL import Image, ImageChops, ImageFilter

from deployments.embedded.training.renderer import fine_features
from deployments.embedded.training.renderer.beard import draw_beard
from deployments.embedded.training.renderer.cartoon.figure import draw_figure as draw_cartoon
from deployments.embedded.training.renderer.clothes import BUILDS, draw_body
from deployments.embedded.training.renderer.drawing import CARTOON, GRID, UNITS, Look, Sketch
from deployments.embedded.training.renderer.eyes import draw_brows, draw_eyes
from deployments.embedded.training.renderer.glasses import draw_glasses
from deployments.embedded.training.renderer.hair import draw_back_hair, draw_front_hair, shape_of
from deployments.embedded.training.renderer.hats import draw_hat
from deployments.embedded.training.renderer.head import draw_earrings, draw_ears, draw_face, draw_nose
from deployments.embedded.training.renderer.mouth import draw_mouth
from deployments.embedded.training.renderer.parts import BACKGROUND, BEARD, BROW, FRAME, HAIR, HAT, LIPS, SKIN
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.renderer.scenery import draw_scene
from deployments.embedded.training.renderer.simplified import simplified

RIM_LIGHT = (196, 206, 228)
RIM_DEPTH = 3.6  # how far inwards the rim light fades, in drawing units


def render(portrait: Portrait, size: int = 256, look: Look = CARTOON) -> tuple[Image.Image, Image.Image]:
    """The picture (RGB) and the person's alpha (L)."""
    picture, alpha, _ = render_labelled(portrait, size, look)
    return picture, alpha


def render_labelled(
    portrait: Portrait, size: int = 256, look: Look = CARTOON
) -> tuple[Image.Image, Image.Image, Image.Image]:
    """As `render`, and what each pixel shows (L, the values of `parts`)."""
    sketch = Sketch(portrait if look.detailed else simplified(portrait), size, look)
    sketch.picture.paste(draw_scene(portrait, sketch.side))
    (draw_cartoon if look.detailed else draw_figure)(sketch)
    if look.cartoon:
        draw_rim_light(sketch)
    small = (size, size)
    return (
        sketch.picture.resize(small, Image.Resampling.BOX),
        sketch.alpha.resize(small, Image.Resampling.BOX),
        sketch.labels.resize(small, Image.Resampling.NEAREST),
    )


def draw_figure(sketch: Sketch) -> None:
    """The looks without every trait, onto the sketch: each part over the ones before, ears under hair left out."""
    sketch.part = HAIR
    draw_back_hair(sketch)
    sketch.part = BACKGROUND
    draw_body(sketch, *BUILDS[sketch.person.gender])
    sketch.part = SKIN
    if not shape_of(sketch).over_ears:
        draw_ears(sketch)
    face = draw_face(sketch)
    sketch.part = SKIN if sketch.person.beard == "stubble" else BEARD
    draw_beard(sketch, face)
    draw_features(sketch, face)
    sketch.part = HAIR
    draw_front_hair(sketch, face)
    sketch.part = HAT
    draw_hat(sketch)
    sketch.part = BACKGROUND
    if sketch.person.earrings:
        draw_earrings(sketch)
    sketch.part = FRAME
    draw_glasses(sketch)


def draw_features(sketch: Sketch, face: Image.Image) -> None:
    """Eyes, nose, mouth and brows within the face's mask."""
    sketch.part = SKIN
    if not sketch.look.cartoon:
        fine_features.draw_features(sketch)
        return
    draw_eyes(sketch)
    draw_nose(sketch, face)
    sketch.part = LIPS
    draw_mouth(sketch, face)
    sketch.part = BROW
    draw_brows(sketch)


def draw_rim_light(sketch: Sketch) -> None:
    """A cartoon's dark hair and clothes stand out from a black background by the light on their edges."""
    small = sketch.alpha.resize((GRID, GRID), Image.Resampling.BOX)
    inside = small.filter(ImageFilter.GaussianBlur(RIM_DEPTH * GRID / UNITS))
    near = inside.point([min(255, max(0, round((215 - i) * 2.0))) for i in range(256)])
    near = near.resize((sketch.side, sketch.side), Image.Resampling.BILINEAR)
    lit = ImageChops.multiply(ImageChops.multiply(near, sketch.rim), sketch.alpha)
    sketch.fill(lit, RIM_LIGHT, solid=False)

"""Pictures of a person as a cartoon, before a scene."""

from PIL import Image, ImageChops, ImageFilter

from deployments.embedded.training.renderer.cartoon.figure import draw_figure
from deployments.embedded.training.renderer.drawing import CARTOON, GRID, UNITS, Sketch
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.renderer.scenery import draw_scene

RIM_LIGHT = (196, 206, 228)
RIM_DEPTH = 3.6  # how far inwards the rim light fades, in drawing units


def render(portrait: Portrait, size: int = 256) -> tuple[Image.Image, Image.Image]:
    """The picture (RGB) and the person's alpha (L)."""
    picture, alpha, _ = render_labelled(portrait, size)
    return picture, alpha


def render_labelled(portrait: Portrait, size: int = 256) -> tuple[Image.Image, Image.Image, Image.Image]:
    """As `render`, and what each pixel shows (L, the values of `parts`)."""
    sketch = Sketch(portrait, size, CARTOON)
    sketch.picture.paste(draw_scene(portrait, sketch.side))
    draw_figure(sketch)
    draw_rim_light(sketch)
    return sketch.shrunk(size)


def draw_rim_light(sketch: Sketch) -> None:
    """Dark hair and clothes stand out from a black background by the light on their edges."""
    small = sketch.alpha.resize((GRID, GRID), Image.Resampling.BOX)
    inside = small.filter(ImageFilter.GaussianBlur(RIM_DEPTH * GRID / UNITS))
    near = inside.point([min(255, max(0, round((215 - i) * 2.0))) for i in range(256)])
    near = near.resize((sketch.side, sketch.side), Image.Resampling.BILINEAR)
    lit = ImageChops.multiply(ImageChops.multiply(near, sketch.rim), sketch.alpha)
    sketch.fill(lit, RIM_LIGHT, solid=False)

"""The styles by name, and persons drawn in them."""

from collections.abc import Callable
from typing import Literal, get_args

from PIL import Image

from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.renderer.shaders.clay import clay
from deployments.embedded.training.renderer.shaders.comic_ink import comic_ink
from deployments.embedded.training.renderer.shaders.flat_vector import flat_vector
from deployments.embedded.training.renderer.shaders.pencil import pencil
from deployments.embedded.training.renderer.shaders.pixel_art import pixel_art
from deployments.embedded.training.renderer.shaders.surface import Array, Surface, as_picture

Style = Literal["flat", "comic", "pixel-art", "clay", "sketch"]
Shader = Callable[[Surface, Portrait], tuple[Array, Array]]
STYLES: tuple[Style, ...] = get_args(Style)
SHADERS: dict[Style, Shader] = {
    "flat": flat_vector,
    "comic": comic_ink,
    "pixel-art": pixel_art,
    "clay": clay,
    "sketch": pencil,
}


def restyled(style: Style, surface: Surface, portrait: Portrait) -> tuple[Image.Image, Image.Image]:
    """The picture (RGB) and the alpha (L) of a portrait that the surface shows, in a style."""
    colours, alpha = SHADERS[style](surface, portrait)
    return as_picture(colours), as_picture(alpha)

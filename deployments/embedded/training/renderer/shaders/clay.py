"""Clay: each part a lump of plasticine with round edges, dents of fingers and soft light from the upper left."""

import numpy as np
from scipy import ndimage

from deployments.embedded.training.renderer.parts import BEARD, HAIR, HAT, SKIN
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.renderer.shaders.surface import (
    CLOTHES,
    Array,
    Surface,
    blurred,
    blurred_within,
    borders,
    luma,
    noise,
)

ROUND, HIGH = 20.0, 8.0  # UNITS from an edge, over which a lump rises, and how far
BUMPS, DENTS = 6.0, 2.4  # grain of the surface
LIGHT = np.array([-0.48, -0.58, 0.66], dtype=np.float32)
HALFWAY = (LIGHT + np.eye(3)[2]) / np.linalg.norm(LIGHT + np.eye(3)[2])  # between the light and the eye
AMBIENT, DIRECT, GLOSS, SHARP = 0.5, 0.5, 0.26, 16
WARM = np.array([0.75, 1.0, 1.1], dtype=np.float32)  # shadows of a colour are of a warmer one
SMOOTHED = (SKIN, HAIR, BEARD, HAT, CLOTHES)
DETAIL = 0.12  # of what smoothing takes away, that stays


def clay(surface: Surface, portrait: Portrait) -> tuple[Array, Array]:
    """Backgrounds are a slab of clay in their own colours, with the same dents; black stays black."""
    smooth = blurred_within(surface.colours, surface.parts, surface.pixels(5.0), SMOOTHED)
    base = (smooth + DETAIL * (luma(surface.colours) - luma(smooth))[..., None]).clip(0, 1)
    away = ndimage.distance_transform_edt(~borders(surface.parts)).astype(np.float32) / surface.pixels(ROUND)
    down, across = np.gradient(relief(surface, away))
    normal = np.stack([-across, -down, np.ones_like(down)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    lit = AMBIENT + DIRECT * (normal @ LIGHT).clip(0) / LIGHT[2]
    crevice = 1 - 0.3 * surface.alpha * (1 - 4 * away).clip(0)
    gloss = GLOSS * ((normal @ HALFWAY).clip(0) ** SHARP - HALFWAY[2] ** SHARP).clip(0)
    shine = gloss * surface.alpha * (0.4 + 0.6 * luma(base))
    light = (lit * crevice)[..., None] ** WARM
    return np.asarray(base * light + shine[..., None], dtype=np.float32), surface.alpha


def relief(surface: Surface, away: Array) -> Array:
    """(n, n) heights in pixels: parts rise from their edges; skin is smoother than the rest.

    Bumps and dents are the same in all pictures. `away` (n, n): how far an edge is, 1 where a part has its full height.
    """
    dome = np.sqrt(1 - (1 - away.clip(0, 1)) ** 2) * (surface.alpha > 0.5) * surface.pixels(HIGH)
    rough = blurred(np.where(surface.part(SKIN), 0.5, 0.4 + 0.6 * surface.alpha), surface.pixels(3.0))
    bumps = surface.pixels(2.2) * noise(surface.side, BUMPS, 1) + surface.pixels(0.55) * noise(surface.side, DENTS, 2)
    return np.asarray(blurred(dome.astype(np.float32), surface.pixels(3.0)) + bumps * rough)

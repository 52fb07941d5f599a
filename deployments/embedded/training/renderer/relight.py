"""Makes a flat drawing of a person more photo-like: realistic skin, hair and light.

Nothing here adds a beard or glasses. Much of it resembles one (a shadow on the jaw, dark eye sockets), so that the
encoder learns to tell the true ones.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.embedded.training.renderer.backdrop import fractal, stretched_grain
from deployments.embedded.training.renderer.portrait import Colour, Portrait
from deployments.embedded.training.renderer.relief import both, gloss, height, hill, lamp, normals, shaded

Field = NDArray[np.float64]
SKIN, HAIR, BEARD, GLASSES = 1, 2, 3, 4  # of a label picture; 0 is everything else
CLASSES = 5
UNTOLD = 5  # in place of a label where nobody knows
LIT = 0.7  # of the skin's pixels, by brightness: people name the colour of a face's lit side, not that of its shade


@dataclass(frozen=True)
class FaceFrame:
    """Where the face is in a picture, in pixels and radians; `half` is half of its width."""

    x: float
    y: float
    half: float
    angle: float

    def fields(self, size: int) -> tuple[Field, Field]:
        """(size, size) each: across and down the face, 1 being half of its width."""
        across, down = np.meshgrid(np.arange(size) + 0.5 - self.x, np.arange(size) + 0.5 - self.y)
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return (across * cos + down * sin) / self.half, (down * cos - across * sin) / self.half


def skin_shade(u: Field, v: Field, rng: np.random.Generator) -> Field:
    """(size, size, 3) factors: sockets, hollow cheeks, jaw, lines beside the mouth, blotches and freckles."""
    size = len(u)
    shade = 1 - rng.uniform(0, 0.45) * (rng.random() < 0.7) * both(u, v, 0.44, rng.uniform(-0.12, 0.06), 0.34, 0.17)
    shade -= rng.uniform(0, 0.3) * (rng.random() < 0.4) * both(u, v, 0.44, 0.16, 0.26, 0.08)
    shade -= rng.uniform(0, 0.3) * (rng.random() < 0.4) * both(u, v, 0.7, 0.6, 0.25, 0.5)
    shade -= rng.uniform(0, 0.3) * (rng.random() < 0.4) * hill(u, v, 0, 1.25, 0.9, 0.3)
    lines = both(u - 0.05 * v, v, rng.uniform(0.36, 0.5), 0.66, 0.05, 0.25)
    shade -= rng.uniform(0, 0.3) * (rng.random() < 0.4) * lines
    shade += rng.uniform(0, 0.09) * fractal(size, rng, rng.uniform(0.5, 1.5))
    if rng.random() < 0.12:
        shade -= rng.uniform(0.1, 0.3) * (fractal(size, rng, 0.2) > 1.3)
    red = rng.uniform(-0.02, 0.12) * (both(u, v, 0.5, 0.45, 0.3, 0.25) + 0.7 * hill(u, v, 0, 0.4, 0.2, 0.2))
    return np.stack([shade, shade - 0.7 * red, shade - 0.8 * red], -1)


def hair_shade(u: Field, v: Field, rng: np.random.Generator) -> Field:
    """Strands, darker towards the parting or the tips, and a broad sheen."""
    size = len(u)
    strands = stretched_grain(size, rng, np.pi / 2 + rng.normal(0, 0.5), rng.uniform(0.2, 1.0), rng.uniform(3, 12))
    shade = 1 + rng.uniform(0.02, 0.2) * strands + rng.uniform(0, 0.15) * fractal(size, rng, 1.0)
    shade += rng.normal(0, 0.12) * np.clip(v, -2, 2)
    shade += rng.uniform(0, 0.35) * hill(u, v, rng.normal(0, 0.4), rng.uniform(-1.5, -0.9), 0.7, 0.2)
    return np.asarray(shade)


def lamplight(u: Field, v: Field, rng: np.random.Generator) -> Field:
    """(size, size, 3) factors about 1: a lamp from a side, its colour, and at times the edge of a hard shadow."""
    angle, strength = rng.uniform(0, 2 * np.pi), abs(rng.normal(0, 0.2))
    lit = strength * np.tanh(u * np.cos(angle) + (v - 0.2) * np.sin(angle))
    if rng.random() < 0.25:
        edge, bend = rng.uniform(-0.9, 0.9), rng.uniform(0, 0.4)
        turned = u * np.cos(angle + 0.4) + v * np.sin(angle + 0.4) - edge + bend * fractal(len(u), rng, 1.5)
        lit = lit - rng.uniform(0.1, 0.5) / (1 + np.exp(turned * rng.uniform(3, 25)))
    warmth = rng.normal(0, 0.15)
    colours = [lit * (1 + warmth), lit, lit * (1 - warmth)]
    return np.asarray(np.clip(1 + np.stack(colours, -1), 0.25, 1.6))


def exposed(picture: Field, part: NDArray[np.bool_], colour: Colour, place: float) -> Field:
    """As bright as makes a part's quantile `place` that of its colour: what shade took on the whole is given back."""
    if part.sum() < 20:
        return picture
    found = np.quantile(picture[part[..., 0]], place, axis=0)
    return np.asarray(picture * np.where(part, np.clip((sum(colour) + 8) / (found.sum() + 8), 0.5, 2.0), 1.0))


def relit(
    picture: Field, labels: NDArray[np.uint8], person: Portrait, frame: FaceFrame, rng: np.random.Generator
) -> Field:
    """(size, size, 3) of 0..255 and its labels -> the same, in another light."""
    u, v = frame.fields(len(picture))
    skin, hair = (labels == SKIN)[..., None], ((labels == HAIR) | (labels == BEARD))[..., None]
    towards, light = normals(height(u, v, rng), frame.half), lamp(rng)
    relief = shaded(towards, light, rng)
    picture = picture * np.where(skin, skin_shade(u, v, rng) * relief, 1.0)
    picture = picture * np.where((labels == BEARD)[..., None], relief, 1.0)
    picture = picture * np.where(hair, hair_shade(u, v, rng)[..., None], 1.0)
    picture = picture * lamplight(u, v, rng)
    picture = exposed(exposed(picture, skin, person.skin, LIT), hair, person.hair, 0.5)
    shine = np.where(skin, gloss(towards, light, rng)[..., None], 0.0)
    return np.asarray(picture + (255 - picture).clip(0) * shine)

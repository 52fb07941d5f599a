"""The face as a relief: a height map, and its shading by a lamp.

A drawing's face is nearly flat. In a photo most of what is dark on it is shade, and most of what is white is gloss.
"""

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]


def hill(u: Field, v: Field, x: float, y: float, wide: float, high: float) -> Field:
    """A Gaussian of height 1 at (x, y), which falls to 1/e at `wide` across and at `high` down."""
    return np.asarray(np.exp(-(((u - x) / wide) ** 2) - ((v - y) / high) ** 2))


def both(u: Field, v: Field, x: float, y: float, wide: float, high: float) -> Field:
    """Two hills, at x and -x."""
    return hill(u, v, x, y, wide, high) + hill(u, v, -x, y, wide, high)


def step(x: Field) -> Field:
    """The logistic function: 0 far below 0, 1 far above."""
    return np.asarray(1 / (1 + np.exp(-x)))


def nose(u: Field, v: Field, rng: np.random.Generator) -> Field:
    """A ridge that rises from the eyes and breaks off, with a wing at each side."""
    tip, wide = rng.uniform(0.48, 0.62), rng.uniform(0.1, 0.17)
    ridge = np.exp(-((u / wide) ** 2)) * np.clip((v + 0.25) / (tip + 0.25), 0, 1) * step((tip - v) * 22)
    return np.asarray(rng.uniform(0.12, 0.36) * ridge + rng.uniform(0.0, 0.1) * both(u, v, 0.18, tip - 0.04, 0.09, 0.1))


def mouth(u: Field, v: Field, rng: np.random.Generator) -> Field:
    """Two lips, the dent below them and the folds beside them."""
    lips = rng.uniform(0, 0.07) * (hill(u, v, 0, 0.92, 0.3, 0.07) + hill(u, v, 0, 1.08, 0.26, 0.08))
    folds = both(u - 0.3 * (v - 0.75), v, rng.uniform(0.36, 0.48), 0.75, 0.06, 0.24)
    return np.asarray(lips - rng.uniform(0, 0.06) * hill(u, v, 0, 1.22, 0.25, 0.07) - rng.uniform(0, 0.06) * folds)


def height(u: Field, v: Field, rng: np.random.Generator) -> Field:
    """(size, size) above the plane of the picture, all lengths in halves of the face's width."""
    z = rng.uniform(0.6, 1.0) * np.sqrt(np.clip(1 - (u / 1.3) ** 2 - ((v - 0.25) / 1.8) ** 2, 0.02, 1))
    z = z + nose(u, v, rng) + mouth(u, v, rng)
    z += rng.uniform(0, 0.1) * both(u, v, 0.42, -0.3, 0.36, 0.12)
    z -= rng.uniform(0, 0.16) * both(u, v, 0.45, 0.0, 0.25, 0.17)
    z += rng.uniform(0, 0.14) * both(u, v, 0.55, 0.42, 0.3, 0.26)
    z += rng.uniform(0, 0.12) * hill(u, v, 0, 1.42, 0.24, 0.16)
    return np.asarray(z - rng.uniform(0.1, 0.5) * step((v - 1.6 + 0.45 * u * u) * 12))


def normals(z: Field, half: float) -> Field:
    """(size, size, 3) of length 1, towards the right, down and the camera; `half`: pixels to a unit of `z`."""
    down, across = np.gradient(z * half)
    towards = np.stack([-across, -down, np.ones_like(z)], -1)
    return np.asarray(towards / np.linalg.norm(towards, axis=-1, keepdims=True))


def lamp(rng: np.random.Generator) -> NDArray[np.float64]:
    """(3,): where the light comes from; mostly above, seldom from behind the ears."""
    aside, up = float(np.clip(rng.normal(0, 0.7), -1.5, 1.5)), rng.uniform(-0.1, 1.1)
    return np.array([np.sin(aside) * np.cos(up), -np.sin(up), np.cos(aside) * np.cos(up)])


def shaded(towards: Field, light: NDArray[np.float64], rng: np.random.Generator) -> Field:
    """(size, size, 3) factors up to 1; what light reaches shade has passed through skin, which leaves it redder."""
    wrap, ambient, red = rng.uniform(0, 0.4), rng.uniform(0.25, 0.85), rng.uniform(0, 0.35)
    lit = ambient + (1 - ambient) * np.clip((towards @ light + wrap) / (1 + wrap), 0, 1)
    return np.asarray(np.stack([lit ** (1 - red), lit ** (1 + 0.15 * red), lit ** (1 + 0.5 * red)], -1))


def gloss(towards: Field, light: NDArray[np.float64], rng: np.random.Generator) -> Field:
    """(size, size), 0..1: how white the skin mirrors the lamp (Blinn 1977)."""
    halfway = light + np.array([0.0, 0.0, 1.0])
    mirrored = np.clip(towards @ (halfway / np.linalg.norm(halfway)), 0, 1)
    return np.asarray(rng.uniform(0, 0.4) * (rng.random() < 0.6) * mirrored ** rng.uniform(8, 50))

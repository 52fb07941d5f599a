"""Coordinates of the drawn head: 1 is half of a grown face's width (70 mm); the origin lies between the eyes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Numbers = NDArray[np.floating[Any]]
SIDE = 288  # pixels of the canvas
UNIT = 50.0  # pixels of a length of 1
MIDDLE = 144.0, 126.0  # the origin's pixel

u_axis: Field = ((np.arange(SIDE) + 0.5 - MIDDLE[0]) / UNIT).astype(np.float32)
v_axis: Field = ((np.arange(SIDE) + 0.5 - MIDDLE[1]) / UNIT).astype(np.float32)
U, V = np.meshgrid(u_axis, v_axis)


def bell(axis: Field, middle: float, wide: float) -> Field:
    """A Gaussian of height 1, which falls to 1/e at `wide` from its middle."""
    return np.asarray(np.exp(-(((axis - middle) / wide) ** 2)), dtype=np.float32)


def hill(x: float, y: float, wide: float, high: float) -> Field:
    """(SIDE, SIDE): a Gaussian at (x, y)."""
    return np.outer(bell(v_axis, y, high), bell(u_axis, x, wide))


def both(x: float, y: float, wide: float, high: float) -> Field:
    """Two hills, at x and -x."""
    return np.outer(bell(v_axis, y, high), bell(u_axis, x, wide) + bell(u_axis, -x, wide))


def step(x: Numbers) -> Field:
    """The logistic function: 0 far below 0, 1 far above."""
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))), dtype=np.float32)


def inside(distance: Numbers, blur: float = 0.5) -> Field:
    """Cover of what reaches to where `distance` (in units, negative within) is 0; `blur`: half of the edge, pixels."""
    return np.asarray(np.clip(0.5 - distance * UNIT / (2 * blur), 0, 1), dtype=np.float32)


def groove(points: NDArray[np.float64], wide: float) -> Field:
    """A Gaussian trench along an open line of points (n, 2), tapering to both ends."""
    x, y = points.T
    low = np.floor((np.array([x.min(), y.min()]) - 3 * wide) * UNIT + MIDDLE).astype(int).clip(0, SIDE)
    high = np.ceil((np.array([x.max(), y.max()]) + 3 * wide) * UNIT + MIDDLE).astype(int).clip(0, SIDE)
    field = np.zeros((SIDE, SIDE), dtype=np.float32)
    if (low >= high).any():
        return field
    part = np.s_[low[1] : high[1], low[0] : high[0]]
    steps = np.linspace(0, 1, 24)
    at = np.interp(steps, np.linspace(0, 1, len(x)), x), np.interp(steps, np.linspace(0, 1, len(y)), y)
    taper = np.sin(np.pi * steps) ** 0.5
    far = ((U[part][..., None] - at[0]) ** 2 + (V[part][..., None] - at[1]) ** 2) / wide**2
    field[part] = (np.exp(-far) * taper).max(-1)
    return field


def linear(colour: tuple[int, int, int] | NDArray[np.float64]) -> Field:
    """(..., 3) sRGB of 0..255 -> linear light of 0..1, by a power of 2.2."""
    return np.asarray((np.asarray(colour, dtype=np.float32) / 255) ** 2.2, dtype=np.float32)

"""Surfaces and hair as points with a normal, a colour and a gloss: what the withheld rendering is made of.

Lengths are in half heights of a head: the crown is at y = 1, the chin near y = -1. x goes to the right of the
picture, y up, z to the camera. Colours are linear RGB.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float32]
Values = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Surfels:
    """n points. `tangent` is the direction of a hair, 0 on a surface; `gloss` is the strength of the highlight."""

    place: Numbers  # (n, 3)
    normal: Numbers  # (n, 3), of length 1
    albedo: Numbers  # (n, 3)
    tangent: Numbers  # (n, 3)
    gloss: Numbers  # (n,)

    def moved(self, turn: Numbers, by: ArrayLike = (0.0, 0.0, 0.0)) -> "Surfels":
        """Turned by the matrix (3, 3) about the origin, then shifted."""
        return replace(
            self,
            place=self.place @ turn.T + np.asarray(by, np.float32),
            normal=self.normal @ turn.T,
            tangent=self.tangent @ turn.T,
        )


def surfels(
    place: ArrayLike, normal: ArrayLike, albedo: ArrayLike, gloss: ArrayLike = 0.0, tangent: ArrayLike = 0.0
) -> Surfels:
    """All but `place` (n, 3) may be given once for all points."""
    places = single(place)
    return Surfels(
        places,
        unit(np.broadcast_to(single(normal), places.shape)),
        np.broadcast_to(single(albedo), places.shape),
        unit(np.broadcast_to(single(tangent), places.shape)),
        np.broadcast_to(single(gloss), places.shape[:1]),
    )


def together(parts: Sequence[Surfels]) -> Surfels:
    """All points of all parts."""
    names = ("place", "normal", "albedo", "tangent", "gloss")
    return Surfels(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def kept(part: Surfels, which: NDArray[np.bool_]) -> Surfels:
    """The points of a mask (n,)."""
    return Surfels(part.place[which], part.normal[which], part.albedo[which], part.tangent[which], part.gloss[which])


def single(values: ArrayLike) -> Numbers:
    """In single precision."""
    return np.asarray(values, np.float32)


def unit(vectors: Any) -> Numbers:
    """(..., 3) of length 1; what has no length keeps none."""
    return single(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9))


def linear(colour: ArrayLike) -> Numbers:
    """sRGB of 0 to 255 -> linear RGB of 0 to 1 (IEC 61966-2-1)."""
    level = single(colour) / 255
    return single(np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4))


def grid_normals(places: Numbers) -> Numbers:
    """(rows, columns, 3) of a surface -> its normals, towards the side from which rows go up and columns right."""
    along, across = np.gradient(places, axis=1), np.gradient(places, axis=0)
    return unit(np.cross(along, across))


def tube(path: Numbers, radius: ArrayLike, albedo: ArrayLike, gloss: float = 0.2, around: int = 20) -> Surfels:
    """The skin of a bent rod along `path` (n, 3); `radius` may differ along it, `albedo` be one a point of the path."""
    along = unit(np.gradient(path, axis=0))
    aside = unit(np.cross(along, np.where(np.abs(along[:, :1]) < 0.9, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))))
    up = np.cross(along, aside)
    angle = np.linspace(0, 2 * np.pi, around, endpoint=False, dtype=np.float32)[None, :, None]
    normal = aside[:, None] * np.cos(angle) + up[:, None] * np.sin(angle)
    place = path[:, None] + normal * np.broadcast_to(single(radius), len(path))[:, None, None]
    colours = np.broadcast_to(single(albedo), path.shape)[:, None].repeat(around, axis=1)
    return surfels(place.reshape(-1, 3), normal.reshape(-1, 3), colours.reshape(-1, 3), gloss)


def ball(middle: ArrayLike, radii: ArrayLike, albedo: ArrayLike, gloss: float = 0.1, count: int = 20_000) -> Surfels:
    """An ellipsoid's skin, evenly covered (a Fibonacci lattice)."""
    number = np.arange(count) + 0.5
    up, angle = 1 - 2 * number / count, number * np.pi * (1 + 5**0.5)
    flat = np.sqrt(1 - up * up)
    round_ = np.stack([flat * np.cos(angle), up, flat * np.sin(angle)], axis=1)
    return surfels(round_ * single(radii) + single(middle), round_ / single(radii), albedo, gloss)


def smoothed_path(points: Sequence[Sequence[float]], count: int) -> Numbers:
    """(count, 3) along a Catmull-Rom curve through the points."""
    knots = np.array([points[0], *points, points[-1]], np.float32)
    at = np.linspace(0, len(points) - 1 - 1e-6, count)
    first, t = at.astype(int), (at % 1)[:, None]
    a, b, c, d = (knots[first + i] for i in range(4))
    curve = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    return single(curve / 2)

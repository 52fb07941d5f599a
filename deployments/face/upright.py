"""Faces at any angle: how far one is turned, and the level square of a photo about it."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.types import Box

Landmarks = NDArray[np.float32]  # (5, 2): eyes, nose, corners of the mouth, each pair from the upright face's left


def turn_of(landmarks: Landmarks) -> float:
    """Radians by which a face is turned, clockwise as one sees it: the mean of its eyes' line and of its length."""
    eyes = landmarks[1] - landmarks[0]
    down = landmarks[3:5].mean(0) - landmarks[:2].mean(0)
    across = np.array([down[1], -down[0]])
    both = eyes / max(float(np.hypot(*eyes)), 1e-6) + across / max(float(np.hypot(*across)), 1e-6)
    return math.atan2(float(both[1]), float(both[0]))


def level_square(photo: Image.Image, middle: tuple[float, float], side: float, turn: float, size: int) -> Image.Image:
    """The square of `side` pixels about a point, turned back by `turn`, as (size, size); beyond the photo its edge."""
    factor = max(1, int(side / size / 1.5))
    reach = side / 2 * (abs(math.cos(turn)) + abs(math.sin(turn))) + 2 * factor
    left, top = math.floor(middle[0] - reach), math.floor(middle[1] - reach)
    around = edge_padded(photo, (left, top, left + 2 * math.ceil(reach), top + 2 * math.ceil(reach)))
    small = around.reduce(factor) if factor > 1 else around
    scale = side / size / factor
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    x, y = (middle[0] - left) / factor, (middle[1] - top) / factor
    place = (cos, -sin, x - (cos - sin) * size / 2, sin, cos, y - (sin + cos) * size / 2)
    return small.transform((size, size), Image.Transform.AFFINE, place, Image.Resampling.BILINEAR)


class Pyramid:
    """A photo in its own size and halved again and again, each made once: a large square needs few of its pixels."""

    def __init__(self, photo: Image.Image) -> None:
        self._halves = [photo]
        self._shrunk: dict[int, Image.Image] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the photo, pixels."""
        return self._halves[0].size

    def shrunk(self, side: int) -> tuple[Image.Image, float]:
        """The photo at no more than `side` pixels of its longer side, and what it was multiplied by."""
        photo = self._halves[0]
        shrink = min(1.0, side / max(photo.size))
        if side not in self._shrunk:
            size = max(1, round(photo.width * shrink)), max(1, round(photo.height * shrink))
            self._shrunk[side] = photo if size == photo.size else photo.resize(size, Image.Resampling.BOX)
        return self._shrunk[side], shrink

    def level_square(self, middle: tuple[float, float], side: float, turn: float, size: int) -> Image.Image:
        """As the function of that name."""
        halvings = max(0, int(math.log2(max(side / size, 1.0))))
        while len(self._halves) <= halvings and min(self._halves[-1].size) > 1:
            self._halves.append(self._halves[-1].reduce(2))
        halvings = min(halvings, len(self._halves) - 1)
        scale = 2**halvings
        return level_square(self._halves[halvings], (middle[0] / scale, middle[1] / scale), side / scale, turn, size)


def edge_padded(photo: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """A part of a photo, which may reach beyond it: there its last pixels go on."""
    left, top, right, bottom = box
    inside = (
        min(max(left, 0), photo.width - 1), min(max(top, 0), photo.height - 1),
        max(min(right, photo.width), 1), max(min(bottom, photo.height), 1),
    )  # fmt: skip
    if inside == box:
        return photo.crop(box)
    part = np.asarray(photo.crop((inside[0], inside[1], max(inside[2], inside[0] + 1), max(inside[3], inside[1] + 1))))
    rows = np.clip(np.arange(top, bottom) - inside[1], 0, part.shape[0] - 1)
    columns = np.clip(np.arange(left, right) - inside[0], 0, part.shape[1] - 1)
    return Image.fromarray(part.take(rows, 0).take(columns, 1))


def turned_points(points: Landmarks, middle: tuple[float, float], side: float, turn: float, size: int) -> Landmarks:
    """Points of a `level_square`, (n, 2), in pixels of the photo."""
    cos, sin = math.cos(turn), math.sin(turn)
    away = (np.asarray(points, dtype=np.float64) - size / 2) * (side / size)
    return np.asarray(away @ np.array([[cos, sin], [-sin, cos]]) + middle, dtype=np.float32)


def square_about(middle: tuple[float, float], side: float) -> Box:
    """The box of a face: an upright square, however the face is turned."""
    return middle[0] - side / 2, middle[1] - side / 2, middle[0] + side / 2, middle[1] + side / 2


def wrapped(angle: float) -> float:
    """The same angle in radians, in -pi..pi."""
    return (angle + math.pi) % (2 * math.pi) - math.pi

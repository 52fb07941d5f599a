"""Where hair grows: the hairline, which recedes, and roots over the skull."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.embedded.training.renderer.lifelike.anatomy import Anatomy
from deployments.embedded.training.renderer.lifelike.grid import Field, Numbers, U, V, inside
from deployments.embedded.training.renderer.lifelike.strands import CENTRE, RADII, Curves
from deployments.embedded.training.renderer.portrait import Portrait


@dataclass(frozen=True)
class Hairline:
    """Heights of the hair's front edge over |u|, to the sideburns."""

    across: NDArray[np.float64]
    height: NDArray[np.float64]

    def at(self, x: Numbers) -> Field:
        """The height at distances from the middle line."""
        return np.interp(x, self.across, self.height).astype(np.float32)


def hairline_of(person: Portrait, face: Anatomy) -> Hairline:
    """A man's goes up at the temples first; the middle follows."""
    own = np.random.default_rng((person.identity, 10))
    gone, woman = person.recession, person.gender == "woman"
    middle = -0.98 + own.normal(0, 0.05) - 0.08 * face.youth - 0.42 * gone**1.6
    peak = own.uniform(0, 0.06) * (own.random() < 0.4)
    temple = middle - 0.02 - 0.3 * gone + 0.02
    across = np.array([0.0, 0.15, 0.4, 0.6, 0.76, 0.87, 0.94, 1.2])
    square = 0.1 if woman else 0.02
    height = np.array([
        middle + peak, middle, temple - 0.02, temple + 0.1 + square - 0.1 * gone, -0.72 + square - 0.35 * gone,
        -0.45 + square - 0.2 * gone, 0.16 if not woman else 0.02, 0.2,
    ])  # fmt: skip
    return Hairline(across, np.minimum(height, 0.25))


def grows(points: Curves, line: Hairline) -> NDArray[np.bool_]:
    """Whether hair grows at points of the skull (n, 3): before the ears above the hairline, else down to the nape."""
    x, y, z = points.T
    return np.asarray(np.where(z > 0.12, y < line.at(abs(x)), y < 0.75), dtype=bool)


def scattered_roots(line: Hairline, count: int, rng: np.random.Generator, front: float = 0.75) -> Curves:
    """(n, 3), n about `count`; `front`: the share of those on the half that the camera sees."""
    ways = rng.normal(0, 1, (count * 4, 3))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    ways[:, 2] = np.where(rng.random(len(ways)) < front, abs(ways[:, 2]), -abs(ways[:, 2]))
    points = (CENTRE + ways * RADII).astype(np.float32)
    ragged = points + rng.normal(0, 0.02, points.shape).astype(np.float32)
    return points[grows(ragged, line)][:count]


def scalp_cover(line: Hairline, blur: float, rough: Field) -> Field:
    """(SIDE, SIDE): the hairy part of the head as seen from the front, its edge ragged by `rough`."""
    distance = V - line.at(abs(U)) + 0.03 * rough
    return inside(distance, blur)


def bare_crown(person: Portrait) -> float:
    """Share of the hair on top that a man has lost, 0..0.8."""
    return float(np.clip(1.5 * (person.recession - 0.5), 0, 0.8)) if person.gender == "man" else 0.0

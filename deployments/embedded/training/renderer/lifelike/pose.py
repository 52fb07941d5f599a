"""The turned head in front of a camera: where each pixel of the photo lies on the canvas."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from deployments.embedded.training.renderer.lifelike.grid import MIDDLE, UNIT, Field
from deployments.embedded.training.renderer.portrait import Portrait

PIVOT = np.array([0.0, 0.9, 0.0])  # in the neck
BODY_Y = 2.0  # from here downwards a turn of the head does not take part
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Pose:
    """Radians; `distance` of the camera in units: a phone at arm's length is about 7 away."""

    yaw: float
    pitch: float
    roll: float
    distance: float
    stretch: float  # of the height against the width

    def turn(self) -> Matrix:
        """(3, 3), without the roll: right, down, camera."""
        cy, sy, cp, sp = np.cos(self.yaw), np.sin(self.yaw), np.cos(self.pitch), np.sin(self.pitch)
        yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        return np.asarray(pitch @ yaw)

    def seen(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points of the canvas (..., 3) -> where they are seen, (..., 2), in units about the origin; without roll."""
        away = points - PIVOT
        turned = away @ self.turn().T
        share = 1 / (1 + np.exp(-(points[..., 1:2] - BODY_Y) * 5))
        turned = turned * (1 - share) + away * share + PIVOT
        near = self.distance / (self.distance + 0.8 - turned[..., 2:])
        return np.asarray(turned[..., :2] * near * [1.0, self.stretch])


def random_pose(person: Portrait, rng: np.random.Generator) -> Pose:
    """The portrait's own turn of -1..1 and tilt, and a nod, a distance and a lens."""
    return Pose(
        yaw=float(np.deg2rad(30.0) * person.yaw),
        pitch=float(np.clip(rng.normal(0.0, 0.11), -0.3, 0.3)),
        roll=float(np.deg2rad(person.tilt) + rng.normal(0, 0.05)),
        distance=float(rng.uniform(5.5, 22.0)),
        stretch=float(np.exp(rng.normal(0, 0.025))),
    )


def origins(screen: NDArray[np.float64], z: Field, pose: Pose) -> NDArray[np.float64]:
    """(2, h, w): rows and columns of the canvas seen at places (h, w, 2) of the picture, in units, without roll."""
    smooth = gaussian_filter(z, 2.5)
    at = screen / [1.0, pose.stretch]
    centre = pose.seen(np.array([0.0, 0.3, 1.2])) - [0.0, 0.3]
    at = at - centre
    for _ in range(6):
        place = at[..., ::-1] * UNIT + np.array(MIDDLE[::-1]) - 0.5
        height = map_coordinates(smooth, np.moveaxis(place, -1, 0), order=1, mode="nearest")
        at = at - 0.9 * (pose.seen(np.concatenate([at, height[..., None]], -1)) - screen)
    return np.asarray(np.moveaxis(at[..., ::-1] * UNIT + np.array(MIDDLE[::-1]) - 0.5, -1, 0))

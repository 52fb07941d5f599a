"""The head's shape: a loft of profiles over the height, with bumps for features; every trait of shape is a morph."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import PchipInterpolator

from deployments.embedded.training.renderer.portrait import Portrait
from loadtest.bench.reading.surfels import Numbers, single

TEMPLE = 0.25  # height, above which the cranium is an ellipsoid
ROWS, COLUMNS = 470, 500
CRANIUM = single([0.70, 0.75, 0.80])  # half width, height above the temple, depth to the front
BACK = 0.98
EYE_X = 0.285
CLOSING = 0.2  # height in which the chin rounds off


def bump(x: Numbers, y: Numbers, at: tuple[float, float], size: tuple[float, float]) -> Numbers:
    """A Gaussian hill of height 1."""
    return single(np.exp(-(((x - at[0]) / size[0]) ** 2) - ((y - at[1]) / size[1]) ** 2))


def both(x: Numbers, y: Numbers, at: tuple[float, float], size: tuple[float, float]) -> Numbers:
    """A hill on each side."""
    return bump(np.abs(x), y, at, size)


@dataclass(frozen=True)
class Skull:
    """The shape of one person's head."""

    person: Portrait

    @cached_property
    def child(self) -> bool:
        """Whose face is low and small in the head."""
        return self.person.age_name == "child"

    @cached_property
    def chin(self) -> float:
        """The height of the chin's lowest point."""
        return -(0.78 if self.child else 0.86) - 0.30 * self.person.face_length

    @cached_property
    def eye_y(self) -> float:
        """A child's eyes are below the middle."""
        return -0.08 if self.child else 0.0

    @cached_property
    def nose_y(self) -> float:
        """The height of the nose's tip."""
        return self.eye_y + (self.chin - self.eye_y) * (0.36 if self.child else 0.40)

    @cached_property
    def mouth_y(self) -> float:
        """The height between the lips."""
        return self.eye_y + (self.chin - self.eye_y) * 0.665

    @cached_property
    def hairline_y(self) -> float:
        """In the middle of the forehead."""
        return 0.66

    def half_width(self, y: ArrayLike) -> Numbers:
        """Of the head at heights `y`."""
        y = single(y)
        person, chin = self.person, self.chin
        low = [chin, chin + 0.14, chin + 0.36, chin + 0.62, -0.12, TEMPLE]
        jaw, cheeks = person.jaw - 0.5, person.cheeks - 0.5
        wide = [0.24 + 0.17 * jaw, 0.38 + 0.20 * jaw, 0.545 + 0.17 * jaw + 0.05 * cheeks,
                0.635 + 0.06 * jaw + 0.09 * cheeks, 0.685 + 0.03 * cheeks, float(CRANIUM[0])]  # fmt: skip
        below = PchipInterpolator(low, wide)(np.clip(y, chin, TEMPLE)) * self._closing(y)
        return single(np.where(y > TEMPLE, CRANIUM[0] * cranial(y), below))

    def front(self, y: ArrayLike) -> Numbers:
        """The depth in the middle, without features."""
        y = single(y)
        low = [self.chin, self.chin + 0.2, self.mouth_y, -0.1, 0.1, TEMPLE]
        deep = [0.66, 0.74, 0.755, 0.755, 0.785, float(CRANIUM[2])]
        below = PchipInterpolator(low, deep)(np.clip(y, self.chin, TEMPLE)) * self._closing(y)
        return single(np.where(y > TEMPLE, CRANIUM[2] * cranial(y), below))

    def back(self, y: ArrayLike) -> Numbers:
        """The depth behind the middle."""
        y = single(y)
        below = PchipInterpolator([self.chin, -0.6, TEMPLE], [0.2, 0.72, BACK])(np.clip(y, self.chin, TEMPLE))
        return single(np.where(y > TEMPLE, BACK * cranial(y), below * self._closing(y)))

    def _closing(self, y: Numbers) -> Numbers:
        deep = np.clip((self.chin + CLOSING - y) / CLOSING, 0, 1)
        return single(np.sqrt(1 - deep**2) * 0.999 + 0.001)

    def at(self, azimuth: ArrayLike, y: ArrayLike) -> Numbers:
        """(..., 3) on the smooth head; azimuth 0 is the middle of the face, radians to the right of the picture."""
        azimuth, y = np.broadcast_arrays(single(azimuth), single(y))
        sin, cos = np.sin(azimuth), np.cos(azimuth)
        depth = np.where(cos > 0, self.front(y), self.back(y))
        return np.stack([self.half_width(y) * sin, y, depth * cos], axis=-1)

    def surface(self) -> Numbers:
        """(ROWS, COLUMNS, 3): the head with its features, rows from chin to crown, columns from left to right."""
        share = np.linspace(0, 1, ROWS, dtype=np.float32)
        # more rows where it curves away, at chin and crown
        y = self.chin + 1e-4 + (1 - self.chin - 2e-4) * (0.5 - 0.5 * np.cos(np.pi * share)) ** 0.9
        azimuth = np.linspace(-0.72 * np.pi, 0.72 * np.pi, COLUMNS, dtype=np.float32)
        places = self.at(azimuth[None], single(y)[:, None]).copy()
        facing = np.clip(np.cos(azimuth) * 2, 0, 1)
        places[..., 2] += self.relief(places[..., 0], places[..., 1]) * facing
        return places

    def relief(self, x: Numbers, y: Numbers) -> Numbers:
        """How far features stand out of the smooth head."""
        return single(self._nose(x, y) + self._eyes(x, y) + self._mouth(x, y) + self._cheeks(x, y) + self._folds(x, y))

    def _nose(self, x: Numbers, y: Numbers) -> Numbers:
        much, at = self.person.nose_size, self.nose_y
        small = 0.7 if self.child else 1.0
        wide = (0.075 + 0.045 * much) * small
        rise = np.clip((self.eye_y + 0.1 - y) / (self.eye_y + 0.1 - at), 0, 1)
        bridge = (
            rise
            * (0.14 + 0.08 * much)
            * small
            * np.exp(-((x / (wide * 0.85)) ** 2))
            / (1 + np.exp((at - 0.055 - y) * 70))
        )
        tip = (0.10 + 0.04 * much) * small * bump(x, y, (0, at), (wide, 0.075))
        wings = 0.085 * small * both(x, y, (wide * 1.35, at - 0.025), (0.045 + 0.015 * much, 0.05))
        return single(bridge + tip + wings)

    def _eyes(self, x: Numbers, y: Numbers) -> Numbers:
        socket = -0.075 * both(x, y, (EYE_X - 0.01, self.eye_y + 0.015), (0.17, 0.095))
        ball = 0.055 * both(x, y, (EYE_X, self.eye_y), (0.105, 0.075))
        return single(socket + ball + 0.02 * both(x, y, (EYE_X, self.eye_y + 0.19), (0.22, 0.06)))

    def _mouth(self, x: Numbers, y: Numbers) -> Numbers:
        at, full = self.mouth_y, 0.6 + 0.8 * self.person.lips
        lips = 0.035 * full * (bump(x, y, (0, at + 0.035), (0.16, 0.035)) + bump(x, y, (0, at - 0.045), (0.14, 0.04)))
        return single(lips + 0.055 * bump(x, y, (0, self.chin + 0.13), (0.17, 0.1)))

    def _cheeks(self, x: Numbers, y: Numbers) -> Numbers:
        return 0.03 * (0.4 + 1.2 * self.person.cheeks) * both(x, y, (0.37, self.nose_y + 0.06), (0.15, 0.14))

    def _folds(self, x: Numbers, y: Numbers) -> Numbers:
        lines = self.person.wrinkles
        return single(-0.022 * lines * self.creases(x, y)) if lines else np.zeros_like(x)

    def creases(self, x: Numbers, y: Numbers) -> Numbers:
        """0 to 1: furrows of the forehead, crow's feet, folds from nose to mouth, bags below the eyes."""
        total = np.zeros_like(x)
        for number, height in enumerate((0.36, 0.44, 0.52)):
            wave = 0.012 * np.sin(x * 9 + number * 2)
            total += np.exp(-(((y - height - wave) / 0.011) ** 2)) * np.exp(-((x / 0.33) ** 4))
        side = np.abs(x)
        fold = 0.15 + 0.95 * np.sqrt(np.clip(self.nose_y - y, 0, 1) + 0.01) * 0.32  # x of the fold at a height
        within = np.clip((self.nose_y + 0.03 - y) / 0.05, 0, 1) * np.clip((y - self.mouth_y + 0.03) / 0.08, 0, 1)
        total += 1.2 * np.exp(-(((side - fold) / 0.017) ** 2)) * within
        bag = self.eye_y - 0.125 + 0.55 * (side - EYE_X) ** 2
        total += 0.8 * np.exp(-(((y - bag) / 0.012) ** 2)) * np.exp(-(((side - EYE_X) / 0.11) ** 4))
        for slope in (-0.5, 0.0, 0.5):
            ray = self.eye_y + slope * (side - 0.38)
            total += 0.9 * np.exp(-(((y - ray) / 0.010) ** 2)) * np.exp(-(((side - 0.47) / 0.05) ** 4))
        return single(np.clip(total, 0, 1.3))


def cranial(y: Numbers) -> Numbers:
    """The share of the cranium's width that is left at a height above the temple."""
    return single(np.sqrt(np.clip(1 - ((y - TEMPLE) / CRANIUM[1]) ** 2, 1e-5, 1)))

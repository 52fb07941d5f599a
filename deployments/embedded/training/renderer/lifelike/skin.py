"""Skin: its colours over the face, texture, freckles and blemishes."""

from functools import cache

import numpy as np

from deployments.embedded.training.renderer.backdrop import fractal
from deployments.embedded.training.renderer.lifelike.anatomy import Anatomy
from deployments.embedded.training.renderer.lifelike.grid import MIDDLE, SIDE, UNIT, Field, U, V, both, hill, linear
from deployments.embedded.training.renderer.portrait import Portrait, brightness

SLOPES = (-0.2, 0.0, 0.3, 0.6, 1.0, 1.6)
BANK = 6  # fields of each slope


@cache
def bank() -> dict[float, Field]:
    """For each slope (BANK, SIDE, SIDE): drawn once, as noise costs more than all that is made of it."""
    rng = np.random.default_rng(7)
    return {slope: np.stack([fractal(SIDE, rng, slope) for _ in range(BANK)]).astype(np.float32) for slope in SLOPES}


def noise(rng: np.random.Generator, slope: float) -> Field:
    """(SIDE, SIDE) of mean 0 and deviation 1 with a spectrum of 1/f^slope, to the nearest of SLOPES."""
    fields = bank()[min(SLOPES, key=lambda known: abs(known - slope))]
    field = np.roll(fields[rng.integers(BANK)], rng.integers(SIDE, size=2), (0, 1))
    field = field[:, ::-1] if rng.random() < 0.5 else field
    return np.asarray(field.T if rng.random() < 0.5 and slope < 1.6 else field, dtype=np.float32)


def ruddiness(face: Anatomy, own: np.random.Generator) -> Field:
    """Where blood shows: cheeks, nose, and a little chin and ears."""
    cheeks = both(0.52, 0.5, 0.3, 0.26)
    return np.asarray(
        own.uniform(0.02, 0.2) * cheeks
        + own.uniform(0.02, 0.2) * hill(0, face.nose_tip, 0.2, 0.16)
        + 0.05 * hill(0, face.chin - 0.12, 0.2, 0.12)
    )


def freckled(field: Field, own: np.random.Generator) -> Field:
    """Small brown spots about nose and cheeks, more or fewer."""
    count = int(own.integers(60, 300))
    x, y = own.normal(0, 0.42, count), own.normal(0.38, 0.22, count)
    for i in range(count):
        column, row = int(x[i] * UNIT + MIDDLE[0]), int(y[i] * UNIT + MIDDLE[1])
        if 1 < row < SIDE - 2 and 1 < column < SIDE - 2:
            field[row : row + 2, column : column + int(own.integers(1, 3))] *= own.uniform(0.6, 0.9)
    return field


def spotted(field: Field, own: np.random.Generator, wrinkles: float) -> Field:
    """A mole or a few; age brings larger pale brown ones."""
    for _ in range(int(own.integers(0, 4) + wrinkles * own.integers(0, 7))):
        x, y, size = own.normal(0, 0.5), own.uniform(-0.9, 1.3), own.uniform(0.012, 0.03 + 0.04 * wrinkles)
        field *= 1 - own.uniform(0.15, 0.6 - 0.3 * wrinkles) * hill(x, y, size, size)
    return field


def skin_colour(person: Portrait, face: Anatomy, folds: Field, rng: np.random.Generator) -> Field:
    """(SIDE, SIDE, 3) of linear light; `folds` as `lines_of_age` gives them."""
    own = np.random.default_rng((person.identity, 2))
    base, light = linear(person.skin), brightness(person.skin) / 230
    patches = 1 + 0.05 * noise(own, 1.1) + own.uniform(0.01, 0.05) * noise(own, 0.15)
    rough = 1 + person.wrinkles * 0.05 * noise(own, 0.6)
    shade = patches * rough
    if own.random() < 0.16 and light > 0.5:
        shade = freckled(shade.astype(np.float32), own)
    shade = spotted(shade.astype(np.float32), own, person.wrinkles)
    shade *= 1 - (0.1 + 0.14 * own.random() + 0.1 * person.wrinkles) * both(face.eye_x - 0.04, 0.12, 0.22, 0.09)
    shade *= 1 - own.uniform(0, 0.14) * both(face.eye_x, -0.09, 0.24, 0.07)
    shade *= 1 - 0.3 * np.clip(folds, 0, 1.2)
    red = ruddiness(face, own) * (0.4 + 0.6 * light) * rng.uniform(0.6, 1.5) + 0.03 * noise(own, 0.8)
    warm = np.stack([1 + 0.15 * red, 1 - 0.75 * red, 1 - 0.7 * red], -1)
    return np.asarray(base * shade[..., None] * warm, dtype=np.float32)


def nostrils(face: Anatomy) -> Field:
    """(SIDE, SIDE) factors: two dark openings under the tip."""
    dark = both(face.nose_wide * 0.48, face.nose_tip + 0.085, face.nose_wide * 0.24, 0.026)
    return np.asarray(1 - 0.72 * np.clip(dark * 1.3, 0, 1))


def bumps(person: Portrait, rng: np.random.Generator) -> Field:
    """(SIDE, SIDE) of height: pores, and the unevenness of older skin."""
    own = np.random.default_rng((person.identity, 3))
    return np.asarray(
        rng.uniform(0.0006, 0.002) * noise(own, 0.0) + (0.002 + 0.005 * person.wrinkles) * noise(own, 0.9)
    )


def ear_distance(face: Anatomy, side: int, grown: float = 1.0) -> Field:
    """The distance to the outline of an ear, in units, as a rough ellipse that leans."""
    high, wide = 0.3 * (1 - 0.1 * face.youth) * grown, 0.135 * grown
    x = (U * side - 1.0) - 0.12 * (0.22 - V) * 0.5
    y = V - 0.24
    return np.asarray((np.sqrt((x / wide) ** 2 + (y / high) ** 2) - 1) * wide * 1.6)

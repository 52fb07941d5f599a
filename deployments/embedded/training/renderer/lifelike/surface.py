"""The bare head as a height field: how far each point stands out towards the camera."""

import numpy as np

from deployments.embedded.training.renderer.lifelike.anatomy import Anatomy
from deployments.embedded.training.renderer.lifelike.grid import (
    Field,
    U,
    V,
    bell,
    both,
    groove,
    hill,
    inside,
    step,
    v_axis,
)

SKULL_Y, SKULL_HIGH, SKULL_DEEP = -0.35, 1.22, 1.32  # an ellipsoid; its half width is 1


def half_width(face: Anatomy) -> Field:
    """(SIDE,): of the head at each row, 0 above and below."""
    return np.interp(v_axis, face.outline[:, 0], face.outline[:, 1], left=0.0, right=0.0).astype(np.float32)


def head_cover(face: Anatomy) -> Field:
    """(SIDE, SIDE): how much of each pixel the bare head covers, ears aside."""
    wide = half_width(face)[:, None]
    lean = np.sqrt(1 + np.gradient(wide[:, 0], v_axis).clip(-6, 6) ** 2)[:, None]
    return inside((abs(U) - wide) / lean)


def profile(face: Anatomy) -> Field:
    """(SIDE,): height along the middle line, without the nose."""
    skull = SKULL_DEEP * np.sqrt(np.clip(1 - ((v_axis - SKULL_Y) / SKULL_HIGH) ** 2, 0, 1))
    below = SKULL_DEEP - 0.04 * np.clip(v_axis - SKULL_Y, 0, 3) ** 2
    line = np.where(v_axis < SKULL_Y, skull, below)
    line = line - 0.05 * bell(v_axis, -0.06, 0.17) + 0.05 * bell(v_axis, face.chin - 0.16, 0.16)
    return np.asarray(line - 0.05 * bell(v_axis, face.mouth + 0.22, 0.09), dtype=np.float32)


def nose(face: Anatomy) -> Field:
    """A ridge from between the eyes, a ball at its end, a wing at each side, and the hollow below."""
    tip, wide = face.nose_tip, face.nose_wide
    along = np.clip((v_axis + 0.12) / (tip + 0.12), 0, 1)
    rise = face.nose_rise * (face.bridge * 0.55 + (1 - face.bridge * 0.55) * along**1.3) * step((v_axis + 0.2) * 16)
    rise = rise + face.hook * bell(v_axis, tip * 0.45, 0.15)
    rise = rise * step((tip + 0.07 - v_axis) * 20)
    breadth = 0.12 + 0.07 * along
    ridge = rise[:, None] * np.exp(-((abs(U) / breadth[:, None]) ** 2.0))
    ball = 0.065 * hill(0, tip - 0.01, wide * 0.5, 0.095)
    wings = 0.14 * both(wide * 0.78, tip + 0.03, wide * 0.36, 0.085)
    creases = 0.035 * both(wide * 1.12, tip + 0.02, 0.035, 0.09)
    return np.asarray(ridge + ball + wings - creases, dtype=np.float32)


def sockets(face: Anatomy) -> Field:
    """Hollows with the eyeballs in them, the brows' ridge above, cheekbones below."""
    x = face.eye_x
    z = 0.07 * both(x, face.brow - 0.02, 0.36, 0.12) - 0.17 * both(x - 0.03, -0.04, 0.27, 0.16)
    z = z + 0.085 * both(x, 0.0, 0.19, 0.13)
    lid = np.clip(1 - ((abs(U) - x) / (face.eye_wide * 1.1)) ** 2, 0, 1)
    fold = -face.lid_up * np.sqrt(lid) - 0.055 + 0.03 * face.hooded
    z = z - 0.03 * (1 - 0.6 * face.hooded) * np.exp(-(((V - fold) / 0.028) ** 2)) * (lid > 0)
    z = z + (0.05 + 0.06 * (1 - face.cheek)) * both(0.68, 0.36, 0.24, 0.16)
    z = z - 0.1 * (1 - face.cheek) * both(0.62, 0.8, 0.2, 0.26)
    return np.asarray(z + 0.08 * face.cheek * both(0.5, 0.62, 0.28, 0.26), dtype=np.float32)


def lips_relief(face: Anatomy) -> Field:
    """The muzzle, two lips, the groove under the nose and the dent below."""
    z = 0.06 * hill(0, face.mouth, 0.42, 0.22)
    z = z + 0.05 * hill(0, face.mouth - face.upper_lip * 0.6, face.mouth_half * 0.75, face.upper_lip)
    z = z + 0.07 * hill(0, face.mouth + face.gape + face.lower_lip * 0.6, face.mouth_half * 0.65, face.lower_lip)
    z = z - 0.02 * hill(0, (face.nose_tip + face.mouth) / 2 + 0.04, 0.045, 0.09)
    return np.asarray(z - 0.03 * both(face.mouth_half + 0.03, face.mouth - 0.04 * face.smile, 0.05, 0.07))


def head_height(face: Anatomy) -> Field:
    """(SIDE, SIDE): the head without its lines of age; 0 at its outline."""
    wide = np.maximum(half_width(face), 1e-3)[:, None]
    round_off = np.clip(1 - (abs(U) / wide) ** 2.25, 0, 1) ** (1 / 2.25)
    z = profile(face)[:, None] * (0.1 + 0.9 * round_off)
    z = z + (nose(face) + sockets(face) + lips_relief(face)) * np.clip(round_off * 1.5, 0, 1)
    under = step((V - face.chin + 0.03 + 0.1 * U * U) * 9)
    return np.asarray(z * (1 - 0.35 * under), dtype=np.float32)


def curve(*points: tuple[float, float]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(n, 2) of doubles."""
    return np.array(points, dtype=np.float64)


def lines_of_age(face: Anatomy, wrinkles: float, rng: np.random.Generator) -> Field:
    """(SIDE, SIDE), 0..about 1: folds of nose and mouth, then bags and crow's feet, then the brow's lines and jowls."""
    fold = max(0.1, wrinkles) * 0.75 + 0.35 * max(face.smile, 0) * (1 - 0.6 * face.youth)
    field, wing, corner = np.zeros_like(U), face.nose_wide, face.mouth_half
    for side in (-1, 1):
        line = curve((side * wing * 1.1, face.nose_tip - 0.02), (side * (wing + 0.13), face.nose_tip + 0.14),
                     (side * (corner + 0.1), face.mouth + 0.05))  # fmt: skip
        field += fold * groove(line, 0.045)
        bags = curve((side * (face.eye_x - 0.2), 0.1), (side * face.eye_x, 0.19), (side * (face.eye_x + 0.18), 0.13))
        field += (0.12 + 0.75 * wrinkles) * rng.uniform(0.6, 1.1) * groove(bags, 0.04)
        if wrinkles > 0.2:
            field += wrinkles * crows_feet(face, side, rng)
        if wrinkles > 0.4:
            jowl = curve((side * (corner + 0.06), face.mouth + 0.12), (side * (corner + 0.1), face.mouth + 0.36))
            field += (wrinkles - 0.25) * groove(jowl, 0.05)
    return field + (brow_lines(face, wrinkles, rng) if wrinkles > 0.15 else 0.0)


def crows_feet(face: Anatomy, side: int, rng: np.random.Generator) -> Field:
    """Three or four short lines that spread from an eye's outer corner."""
    field, x = np.zeros_like(U), face.eye_x + face.eye_wide + 0.05
    for angle in np.linspace(-0.5, 0.7, int(rng.integers(3, 5))):
        length = rng.uniform(0.12, 0.22)
        end = side * (x + np.cos(angle) * length), 0.02 + np.sin(angle) * length
        field += groove(curve((side * x, 0.02 + 0.04 * angle), end), 0.018)
    return field


def brow_lines(face: Anatomy, wrinkles: float, rng: np.random.Generator) -> Field:
    """Two to four wavy lines across the forehead and two between the brows."""
    field = np.zeros_like(U)
    for number in range(int(rng.integers(2, 5))):
        y = face.brow - 0.16 - 0.12 * number + rng.normal(0, 0.015)
        start, end = rng.uniform(0.35, 0.6), rng.uniform(0.35, 0.6)
        bend = rng.normal(0.02, 0.02)
        line = curve((-start, y + 0.03), (-start / 2, y + bend), (0, y + 0.02), (end / 2, y + bend), (end, y + 0.03))
        field += wrinkles * rng.uniform(0.4, 0.9) * groove(line, 0.024)
    for side in (-1, 1):
        x = side * rng.uniform(0.06, 0.1)
        field += wrinkles * 0.8 * groove(curve((x, face.brow - 0.05), (x * 0.9, face.brow + 0.12)), 0.022)
    return field

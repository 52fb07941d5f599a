"""The measures of one face, from its traits, its identity and its expression."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.embedded.training.renderer.drawing import spline
from deployments.embedded.training.renderer.portrait import Expression, Portrait, brightness

SMILE: dict[Expression, float] = {"serious": -0.15, "neutral": 0.1, "smiling": 0.8, "laughing": 1.0, "surprised": 0.0}
GAPE: dict[Expression, float] = {"serious": 0.0, "neutral": 0.0, "smiling": 0.06, "laughing": 0.12, "surprised": 0.11}
LIFT: dict[Expression, float] = {"serious": -0.05, "neutral": 0.0, "smiling": 0.01, "laughing": 0.03, "surprised": 0.1}
OPEN: dict[Expression, float] = {"serious": 0.9, "neutral": 1.0, "smiling": 0.85, "laughing": 0.66, "surprised": 1.25}


@dataclass(frozen=True)
class Anatomy:
    """Lengths in units of the grid; heights count downwards from the eyes."""

    outline: NDArray[np.float64]  # (n, 2) of the right half from the crown to the chin: v and half width
    youth: float  # 1 for a small child, 0 for the grown
    chin: float
    top: float
    eye_x: float
    eye_wide: float  # half of it
    lid_up: float
    lid_low: float
    canthus: float  # rise of the outer corner
    hooded: float
    iris: float  # radius
    brow: float
    brow_thick: float
    arch: float
    nose_tip: float
    nose_wide: float
    nose_rise: float
    bridge: float
    hook: float
    mouth: float
    mouth_half: float
    upper_lip: float
    lower_lip: float
    smile: float
    gape: float
    cheek: float
    neck: float


def outline_of(person: Portrait, top: float, chin: float) -> NDArray[np.float64]:
    """(n, 2), v rising; the cheeks' fullness and the jaw's breadth make the shape."""
    full, jaw = person.cheeks - 0.5, person.jaw
    right = [
        (0.0, top), (0.38, top + 0.06), (0.76, top + 0.36), (0.94, top + 0.72), (1.0, -0.35), (0.985, 0.08),
        (0.94 + 0.06 * full, 0.42), (0.83 + 0.1 * jaw + 0.1 * full, chin * 0.56),
        (0.7 + 0.14 * jaw + 0.1 * full, chin * 0.72), (0.47 + 0.16 * jaw + 0.06 * full, chin * 0.88),
        (0.24 + 0.15 * jaw, chin * 0.975), (0.0, chin),
    ]  # fmt: skip
    left = [(-x, y) for x, y in reversed(right[1:-1])]
    points = np.array(spline(right + left, 6))
    points = points[points[:, 0] >= -1e-9]
    points = points[np.argsort(points[:, 1])]
    return np.stack([points[:, 1], points[:, 0]], 1)


def anatomy_of(person: Portrait, rng: np.random.Generator) -> Anatomy:
    """`rng` stands for the sitting; the rest is the same in all sittings of a person."""
    own = np.random.default_rng((person.identity, 1))
    youth = float(np.clip((0.17 - person.age) / 0.17, 0, 1))
    woman, dark = person.gender == "woman", 1 - brightness(person.skin) / 230
    chin = 1.42 + 0.22 * person.face_length - 0.12 * youth
    top = -1.56 - 0.12 * youth + own.normal(0, 0.03)
    tension = float(np.clip(rng.normal(1, 0.15), 0.6, 1.4))
    smile, gape = SMILE[person.expression] * tension, GAPE[person.expression] * tension
    if person.expression == "smiling" and rng.random() < 0.45:
        gape = 0.0
    opened = OPEN[person.expression] * np.clip(rng.normal(1, 0.1), 0.55, 1.2)
    open_wide = (0.145 + 0.045 * person.eye_size + 0.02 * youth + (0.008 if woman else 0)) * opened
    if rng.random() < 0.05:
        open_wide *= rng.uniform(0.05, 0.4)  # a blink
    plump = 0.062 + 0.06 * person.lips + 0.035 * dark - 0.025 * person.wrinkles
    plump *= 0.78 if smile > 0.5 else 1.0
    nose_wide = 0.2 + 0.06 * person.nose_size + 0.05 * dark + own.normal(0, 0.012) - (0.012 if woman else 0)
    return Anatomy(
        outline=outline_of(person, top, chin),
        youth=youth,
        chin=chin,
        top=top,
        eye_x=0.445 + own.normal(0, 0.018),
        eye_wide=0.208 + 0.028 * person.eye_size + 0.02 * youth + own.normal(0, 0.006),
        lid_up=open_wide * 0.56,
        lid_low=open_wide * 0.44,
        canthus=own.normal(0.02, 0.022),
        hooded=float(np.clip(own.normal(0.35, 0.3) + 0.35 * person.wrinkles, 0, 1)),
        iris=0.086 + own.normal(0, 0.003),
        brow=-0.27 - (0.03 if woman else 0) - LIFT[person.expression] + own.normal(0, 0.02),
        brow_thick=(0.03 + 0.055 * person.brows) * (0.75 if woman else 1.0),
        arch=0.05 + (0.03 if woman else 0) + own.normal(0, 0.015),
        nose_tip=0.5 + 0.08 * person.nose_size - 0.1 * youth + own.normal(0, 0.025) + 0.03 * max(person.age - 0.6, 0),
        nose_wide=nose_wide - 0.02 * youth,
        nose_rise=0.23 + 0.09 * person.nose_size - 0.07 * dark - 0.1 * youth + own.normal(0, 0.03),
        bridge=own.normal(0.55, 0.12) - 0.2 * dark - 0.2 * youth,
        hook=own.normal(0, 0.03),
        mouth=0.65 * chin - 0.04 * youth + own.normal(0, 0.02) - (0.02 if smile > 0.5 else 0),
        mouth_half=(0.28 + 0.12 * person.mouth_width - 0.03 * youth)
        * (1 + 0.2 * max(smile, 0) - (0.25 if person.expression == "surprised" else 0)),
        upper_lip=plump * (0.8 + own.normal(0, 0.1)),
        lower_lip=plump * (1.2 + own.normal(0, 0.1)),
        smile=smile,
        gape=gape,
        cheek=person.cheeks,
        neck=(0.62 if woman else 0.74) - 0.2 * youth + own.normal(0, 0.03),
    )

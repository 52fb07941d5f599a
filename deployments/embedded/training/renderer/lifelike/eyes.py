"""Eyes: the white in the lids' shade, iris with a dark rim, pupil, lid line and lashes."""

from dataclasses import dataclass

import numpy as np

from deployments.embedded.training.renderer.lifelike.anatomy import Anatomy
from deployments.embedded.training.renderer.lifelike.canvas import Canvas
from deployments.embedded.training.renderer.lifelike.grid import MIDDLE, UNIT, Field, U, V, inside, linear
from deployments.embedded.training.renderer.parts import IRIS, SCLERA
from deployments.embedded.training.renderer.portrait import Portrait

WHITE = np.array([0.46, 0.42, 0.39], dtype=np.float32)
REACH = 0.36, 0.3  # of an eye with its lids from its middle, across and down


@dataclass(frozen=True)
class Socket:
    """The pixels about one eye, and their coordinates; `side` is -1 for the left of the picture."""

    side: int
    box: tuple[slice, slice]
    u: Field
    v: Field

    @classmethod
    def of(cls, face: Anatomy, side: int) -> "Socket":
        """With its lids and lashes."""
        row, column = MIDDLE[1], MIDDLE[0] + side * face.eye_x * UNIT
        wide, high = REACH[0] * UNIT, REACH[1] * UNIT
        box = slice(int(row - high), int(row + high)), slice(int(column - wide), int(column + wide))
        return cls(side, box, U[box], V[box])


def lid_lines(face: Anatomy, at: Socket) -> tuple[Field, Field, Field]:
    """Across an eye from -1 at the nose to 1, and the heights of its upper and lower lid."""
    across = (at.side * at.u - face.eye_x) / face.eye_wide
    arch = np.clip(1 - abs(across) ** 2.2, 0, 1)
    tilt = -face.canthus * across
    upper = tilt - face.lid_up * arch ** (0.62) * (1 - 0.12 * across)
    lower = tilt + face.lid_low * arch**0.8 * (1 + 0.12 * across)
    return across, upper, lower


def eye_cover(face: Anatomy, at: Socket) -> Field:
    """The opening between the lids."""
    across, upper, lower = lid_lines(face, at)
    distance = np.maximum(np.maximum(upper - at.v, at.v - lower), (abs(across) - 1) * face.eye_wide)
    return inside(distance, 0.6)


def iris_paint(person: Portrait, at: Socket, x: float, y: float, radius: float, pupil: float) -> tuple[Field, Field]:
    """Colour and distance from the middle, 1 at the rim: rays, a lighter ring about the pupil, a dark rim."""
    own = np.random.default_rng((person.identity, 4))
    du, dv = at.u - x, at.v - y
    far = np.hypot(du, dv) / radius
    angle = np.arctan2(dv, du)
    rays = sum(np.sin(angle * n + own.uniform(0, 6.3)) for n in own.integers(7, 40, 4)) * 0.06
    ring = np.exp(-(((far - 0.5) / 0.22) ** 2))
    colour = linear(person.eyes) * (1.0 + rays + 0.1 * ring + own.normal(0, 0.12))[..., None]
    inner = np.array([1.0, 0.72, 0.45]) * linear(person.eyes).max() * own.uniform(0.6, 1.1)
    colour = colour + (inner - colour) * (0.45 * own.random() * ring)[..., None]
    colour = colour * (1 - 0.7 * np.clip((far - 0.74) / 0.2, 0, 1))[..., None]
    hole = np.clip(0.5 + (pupil - far) * radius * UNIT, 0, 1)[..., None]
    return np.asarray(colour * (1 - hole) + 0.004 * hole, dtype=np.float32), far


def draw_eyes(
    canvas: Canvas, person: Portrait, face: Anatomy, light: np.ndarray[tuple[int], np.dtype[np.float64]],
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Both, looking near the camera; `light`: where the lamp is, which the eyes mirror."""
    gaze_x, gaze_y = rng.normal(0, 0.02), rng.normal(0.0, 0.008)
    pupil, squint = rng.uniform(0.3, 0.52), rng.uniform(0.4, 0.8)
    red, shine = rng.uniform(0, 0.2), rng.uniform(0.35, 1.0)
    for side in (-1, 1):
        at = Socket.of(face, side)
        part, cover = canvas.part(at.box), eye_cover(face, at)
        across, upper, _ = lid_lines(face, at)
        x, y = side * face.eye_x + gaze_x, -0.016 + gaze_y
        shade = np.clip((at.v - upper) / (0.75 * squint * (face.lid_up + face.lid_low)), 0.0, 1) * 0.62 + 0.38
        shade *= 1 - 0.45 * np.clip(abs(across) - 0.35, 0, 1)
        tone = WHITE * np.array([1, 1 - red * 0.6, 1 - red * 0.6])
        pink = np.clip(-across - 0.82, 0, 0.18)[..., None] / 0.18
        white = tone * (1 - pink) + linear(person.skin) * np.array([1.0, 0.62, 0.62]) * pink
        part.lay(cover, (white * shade[..., None]).astype(np.float32), SCLERA, gloss=0.35)
        colour, far = iris_paint(person, at, x, y, face.iris, pupil)
        disc = inside((far - 1) * face.iris, 0.6) * cover
        part.lay(disc, colour * np.clip(shade * 1.1, 0.3, 1)[..., None], IRIS, gloss=0.5)
        glint_x, glint_y = x + 0.5 * face.iris * light[0], y + 0.55 * face.iris * light[1]
        glint = np.exp(-(((at.u - glint_x) ** 2 + (at.v - glint_y) ** 2) / (0.021 + 0.012 * rng.random()) ** 2))
        part.glow += (glint * cover * shine).astype(np.float32)
        draw_lids(part, person, face, at)


def draw_lids(canvas: Canvas, person: Portrait, face: Anatomy, at: Socket) -> None:
    """A dark line of lashes above, thicker outwards and where lashes are made up; a moist rim below."""
    across, upper, lower = lid_lines(face, at)
    woman = person.gender == "woman"
    own = np.random.default_rng((person.identity, 5))
    made_up = woman and person.age > 0.15 and own.random() < 0.55
    near = np.clip(1.12 - abs(across), 0, 1) ** 0.4 * (abs(across) < 1.12)
    thick = (0.018 + 0.014 * np.clip(across + 0.4, 0, 1.4)) * (1.7 if made_up else 1.0 if woman else 0.75)
    dark = np.exp(-(((at.v - upper + 0.006) / thick) ** 2)) * near * (0.95 if made_up else 0.8 if woman else 0.62)
    lash = linear(person.skin) * 0.1 + linear(person.hair) * 0.04
    canvas.lay(dark.astype(np.float32), lash.astype(np.float32), None)
    if made_up:
        wing = np.exp(-(((at.v - (-0.12 * (across - 0.95) - face.canthus)) / 0.016) ** 2))
        canvas.lay((wing * (abs(across - 1.12) < 0.16) * 0.8).astype(np.float32), lash.astype(np.float32), None)
        if own.random() < 0.4:
            shadow = np.exp(-(((at.v - upper + 0.05) / 0.05) ** 2)) * near * own.uniform(0.2, 0.6) * (at.v < upper)
            tone = np.array([own.uniform(0.08, 0.4), own.uniform(0.05, 0.2), own.uniform(0.05, 0.3)])
            canvas.lay(shadow.astype(np.float32), tone.astype(np.float32), None)
    below = np.exp(-(((at.v - lower) / 0.014) ** 2)) * near * (0.5 if made_up else 0.32)
    canvas.lay(below.astype(np.float32), (linear(person.skin) * 0.25).astype(np.float32), None)

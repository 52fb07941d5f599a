"""Glasses from wire to thick acetate, round or square, and dark ones; their reflections, and their shadow by height."""

from dataclasses import dataclass

import numpy as np

from deployments.embedded.training.renderer.lifelike.anatomy import Anatomy
from deployments.embedded.training.renderer.lifelike.canvas import Canvas
from deployments.embedded.training.renderer.lifelike.grid import Field, U, V, inside, linear
from deployments.embedded.training.renderer.lifelike.skin import noise
from deployments.embedded.training.renderer.parts import FRAME, LENS
from deployments.embedded.training.renderer.portrait import Portrait


@dataclass(frozen=True)
class Fit:
    """One pair on a face, in units of the grid."""

    x: float
    y: float
    wide: float
    high: float
    corner: float  # exponent of the outline: 2 is an ellipse
    droop: float  # how much narrower it is below
    thick: float


def fit_of(person: Portrait, face: Anatomy) -> Fit:
    """Sizes and shapes vary among pairs of one kind."""
    own = np.random.default_rng((person.identity, 16))
    thick = 0.016 + 0.075 * person.frame_weight**1.5
    size = own.uniform(0.9, 1.12)
    if person.glasses == "round":
        wide = 0.325 * size
        return Fit(face.eye_x + 0.02, 0.06, wide, wide * own.uniform(0.85, 1.0), own.uniform(1.9, 2.3), 0.0, thick)
    wide = (0.36 if person.glasses == "square" else 0.38) * size
    high = wide * (own.uniform(0.58, 0.8) if person.glasses == "square" else own.uniform(0.7, 0.92))
    corner = own.uniform(3.2, 7) if person.glasses == "square" else own.uniform(2.2, 4.5)
    return Fit(face.eye_x + 0.03, 0.06, wide, high, corner, own.uniform(0, 0.22), thick)


def rim_distance(fit: Fit) -> Field:
    """(SIDE, SIDE): to the outline of the nearer lens, in units, negative within."""
    y = (V - fit.y) / fit.high
    x = (abs(U) - fit.x) / (fit.wide * (1 - fit.droop * np.clip(y, -0.2, 1)))
    radius = (abs(x) ** fit.corner + abs(y) ** fit.corner) ** (1 / fit.corner)
    return np.asarray((radius - 1) * min(fit.wide, fit.high), dtype=np.float32)


def draw_glasses(canvas: Canvas, person: Portrait, face: Anatomy, rng: np.random.Generator) -> None:
    """Lenses, rims, bridge and temples; nothing without glasses."""
    if person.glasses == "none":
        return
    fit = fit_of(person, face)
    distance = rim_distance(fit)
    draw_lenses(canvas, person, distance, rng)
    rim = abs(distance) - fit.thick / 2
    gap = fit.x - fit.wide
    bridge = np.maximum(abs(V - fit.y + fit.high * 0.25 + 0.1 * (1 - (U / max(gap, 0.05)) ** 2)) - fit.thick * 0.55,
                        abs(U) - gap - 0.01)  # fmt: skip
    rise = 0.05 * np.clip(abs(U) - fit.x - fit.wide, 0, 1)
    temple = np.maximum(
        abs(V - fit.y + fit.high * 0.3 + rise) - fit.thick * 0.5, abs(abs(U) - 0.93) - 0.93 + fit.x + fit.wide - 0.02
    )
    temple = np.maximum(temple, abs(U) - 1.02)
    own = np.random.default_rng((person.identity, 17))
    rimless = person.frame_weight < 0.14 and own.random() < 0.5 and person.glasses != "sun"
    bars = np.minimum(bridge, temple)
    frame = inside(bars if rimless else np.minimum(rim, bars), 0.55)
    if rimless:
        frame = np.maximum(frame, 0.3 * inside(rim, 0.5))
    elif person.frame_weight < 0.5 and own.random() < 0.25:  # rims above only
        frame = np.maximum(inside(bars, 0.55), inside(rim, 0.55) * np.where(fit.y + 0.02 > V, 1, 0.12))
    metal = person.frame_weight < 0.35
    colour = linear(person.glasses_colour) * (1 + 0.25 * noise(rng, 1.0) * (not metal))[..., None]
    if not metal and own.random() < 0.25:  # tortoiseshell
        colour = np.where((noise(own, 0.6) > 0.3)[..., None], linear((40, 22, 14)), linear((120, 66, 28)))
    z = canvas.z + np.float32(0.14)
    canvas.lay(
        frame.astype(np.float32), np.clip(colour, 0, 1).astype(np.float32), None, z=z, gloss=0.9 if metal else 0.6
    )
    canvas.labels[frame > 0.33] = FRAME


def draw_lenses(canvas: Canvas, person: Portrait, distance: Field, rng: np.random.Generator) -> None:
    """Dark ones hide the eyes; clear ones mirror a window at times."""
    lens = inside(distance)
    side = U < 0
    if person.glasses == "sun":
        own = np.random.default_rng((person.identity, 18))
        tint = np.array([1.0, own.uniform(0.7, 1.05), own.uniform(0.5, 1.1)]) * own.uniform(0.004, 0.03)
        dense = own.uniform(0.86, 0.98) - 0.3 * own.random() ** 3 * np.clip(V * 2, 0, 1)
        canvas.lay((lens * dense).astype(np.float32), tint.astype(np.float32), None, z=canvas.z + np.float32(0.06))
        canvas.labels[lens > 0.5] = LENS
    else:
        canvas.tint(1 - np.float32(0.06) * lens)
    if rng.random() < (0.75 if person.glasses == "sun" else 0.4):
        strength = rng.uniform(0.03, 0.3) if person.glasses == "sun" else rng.uniform(0.03, 0.5) ** 1.5
        tilt, place = rng.normal(0, 0.8), rng.uniform(-0.3, 0.3)
        band = np.exp(-(((U + tilt * V - place - np.where(side, -0.45, 0.45)) / rng.uniform(0.06, 0.3)) ** 2))
        fade = np.clip(0.6 - V * rng.uniform(-1, 3), 0, 1)
        canvas.glow += (lens * band * fade * strength).astype(np.float32)

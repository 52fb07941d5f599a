"""Neck, shoulders and clothes."""

import numpy as np

from deployments.embedded.training.renderer.hats import cloth
from deployments.embedded.training.renderer.lifelike.anatomy import Anatomy
from deployments.embedded.training.renderer.lifelike.canvas import Canvas
from deployments.embedded.training.renderer.lifelike.grid import Field, U, V, inside, linear, step
from deployments.embedded.training.renderer.lifelike.skin import noise
from deployments.embedded.training.renderer.parts import BACKGROUND, SKIN
from deployments.embedded.training.renderer.portrait import Portrait

COLLARS = {"t-shirt": 0.42, "v-neck": 0.85, "shirt": 0.5, "hoodie": 0.3, "blazer": 0.9, "turtleneck": -0.35,
           "dungarees": 0.42, "suit": 0.9, "dress": 0.7, "sweater": 0.4, "lab coat": 0.9}  # fmt: skip


def shoulder_line(face: Anatomy, broad: float) -> Field:
    """(SIDE, SIDE): height of the trunk's upper rim at each column."""
    x = np.clip((abs(U) - face.neck * 0.9) / broad, 0, 4)
    return np.asarray(face.chin + 0.33 + 0.34 * np.sqrt(x) + 0.12 * x**2, dtype=np.float32)


def draw_neck(canvas: Canvas, face: Anatomy, skin: Field) -> None:
    """A column that widens into the shoulders, darker under the chin."""
    wide = face.neck + 0.06 * np.clip(V - face.chin, -1, 1) ** 2
    column = inside(abs(U) - wide) * (V > 0.3)
    trunk = inside(shoulder_line(face, 1.2) + 0.03 - V)
    cover = np.maximum(column, trunk)
    z = 0.3 * np.sqrt(np.clip(1 - (U / (wide + 0.02)) ** 2, 0, 1)) + 0.25 * step((V - face.chin - 0.35) * 5)
    canvas.lay(cover, skin, SKIN, z=z.astype(np.float32), gloss=0.25, skin=1.0)


def draw_clothes(canvas: Canvas, person: Portrait, face: Anatomy, rng: np.random.Generator) -> None:
    """A garment over the trunk, open at the neck as its kind is, with folds and often stripes or a print."""
    line = shoulder_line(face, rng.uniform(1.6, 2.2)) - rng.uniform(0.0, 0.05)
    depth = COLLARS[person.clothes] + rng.uniform(-0.08, 0.12)
    pointed = person.clothes in ("v-neck", "shirt", "blazer", "suit", "lab coat")
    half = face.neck + rng.uniform(0.05, 0.2)
    base = face.chin + 0.27
    if pointed:
        opening = base + depth * np.clip(1 - abs(U) / half, -1, 1)
    else:
        opening = base + depth * np.sqrt(np.clip(1 - (U / half) ** 2, 0, 1))
    cover = inside(np.maximum(line, np.where(abs(U) < half, opening, line)) - V, 0.7)
    if person.clothes == "turtleneck":
        cover = np.maximum(cover, inside(np.maximum(abs(U) - face.neck - 0.07, face.chin + 0.12 - V)))
    colour = linear(cloth(person.clothes_name)) * np.float32(rng.uniform(0.7, 1.1)) * patterned(person, rng)
    z = 0.45 + 0.05 * noise(rng, 1.6) + 0.005 * noise(rng, 0.4) - 0.12 * np.clip(abs(U) - 0.6, 0, 2)
    collar = np.exp(-(((V - np.maximum(line, opening)) / 0.06) ** 2)) * (abs(U) < half * 1.1)
    canvas.lay(cover, colour, BACKGROUND, z=(z + 0.08 * collar).astype(np.float32), gloss=float(rng.uniform(0, 0.15)))
    canvas.tint((1 - 0.25 * cover * collar).astype(np.float32))


def patterned(person: Portrait, rng: np.random.Generator) -> Field:
    """(SIDE, SIDE, 1) or (SIDE, SIDE, 3) factors: weave, and for a third of all clothes stripes, checks or blotches."""
    plain = (1 + rng.uniform(0, 0.08) * noise(rng, 0.0))[..., None]
    kind = rng.random()
    if kind > 0.35:
        return np.asarray(plain, dtype=np.float32)
    other = rng.uniform(0.15, 2.5, 3)
    if kind < 0.22:
        wave = np.sin(V * rng.uniform(15, 60) + U * rng.normal(0, 8)) > rng.uniform(-0.5, 0.7)
    else:
        wave = noise(rng, rng.uniform(0.6, 1.4)) > rng.uniform(-0.3, 1.0)
    if kind < 0.1:
        wave = wave ^ (np.sin(U * rng.uniform(15, 60)) > 0.2)
    return np.asarray(plain * np.where(wave[..., None], other, 1.0), dtype=np.float32)

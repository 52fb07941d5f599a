"""Beanies, caps, hats with a brim and headscarves, with folds and knit, over the hair."""

import numpy as np

from deployments.embedded.training.renderer.hats import cloth
from deployments.embedded.training.renderer.lifelike.anatomy import Anatomy
from deployments.embedded.training.renderer.lifelike.canvas import Canvas
from deployments.embedded.training.renderer.lifelike.grid import Field, U, V, inside, linear
from deployments.embedded.training.renderer.lifelike.skin import noise
from deployments.embedded.training.renderer.parts import HAT
from deployments.embedded.training.renderer.portrait import Portrait


def draw_headgear(canvas: Canvas, person: Portrait, face: Anatomy, rng: np.random.Generator) -> None:
    """Nothing without a hat."""
    draw = {"beanie": draw_beanie, "cap": draw_cap, "brimmed": draw_brimmed, "headscarf": draw_headscarf}
    if person.hat in draw:
        draw[person.hat](canvas, person, face, rng)


def band_of(face: Anatomy, rng: np.random.Generator) -> float:
    """How far down a hat sits on the forehead."""
    return float(rng.uniform(-0.95, -0.6))


def clear_above(canvas: Canvas, line: Field) -> None:
    """Takes away the hair that would stand out above a hat's rim."""
    gone = line > V
    canvas.cover[gone], canvas.z[gone], canvas.labels[gone] = 0, 0, 0
    canvas.glow[gone], canvas.strand[gone], canvas.skin[gone] = 0, 0, 0


def dome(face: Anatomy, band: Field, high: float, wide: float, square: float = 2.2) -> tuple[Field, Field]:
    """Cover and height of a crown from `band` upwards to `high` above the head's top."""
    top = face.top - high
    middle = -0.4
    y = np.clip((middle - V) / (middle - top), 0, 1.5)
    radius = (abs(U / wide) ** square + y**square) ** (1 / square)
    cover = np.minimum(inside((radius - 1) * 0.9), inside(V - band))
    z = 1.42 * np.sqrt(np.clip(1 - radius**2, 0.0, 1)) + 0.06
    return cover, np.asarray(z, dtype=np.float32)


def cloth_of(person: Portrait, rng: np.random.Generator) -> Field:
    """(SIDE, SIDE, 3): the named colour with weave."""
    weave = 1 + rng.uniform(0.02, 0.1) * noise(rng, 0.0) + 0.06 * noise(rng, 1.0)
    return np.asarray(linear(cloth(person.hat_name)) * weave[..., None] * rng.uniform(0.7, 1.1), dtype=np.float32)


def draw_beanie(canvas: Canvas, person: Portrait, face: Anatomy, rng: np.random.Generator) -> None:
    """Knitted ribs and a folded edge; some with a bobble."""
    band = band_of(face, rng) + 0.28 * abs(U) ** 2.2
    clear_above(canvas, band - 0.04)
    cover, z = dome(face, band, rng.uniform(0.08, 0.4), 1.1)
    fold = rng.uniform(0.25, 0.4)
    edge = (band - fold < V) & (rng.random() < 0.8)
    ribs = 0.018 * np.sin(U * rng.uniform(45, 80) * (1 + 0.25 * np.clip(-V - 0.8, 0, 1)))
    z = z + 0.07 * edge + ribs * (0.5 + 0.5 * edge)
    colour = cloth_of(person, rng) * (1 + 6 * ribs)[..., None]
    if rng.random() < 0.25:
        ball = inside(np.hypot(U, V - face.top + 0.25) - 0.26 + 0.03 * noise(rng, 0.3))
        canvas.lay(ball, colour.astype(np.float32), HAT, z=z + np.float32(0.3))
    canvas.lay(cover, colour.astype(np.float32), HAT, z=z.astype(np.float32), gloss=0.03)


def draw_cap(canvas: Canvas, person: Portrait, face: Anatomy, rng: np.random.Generator) -> None:
    """A crown of panels, often with a badge, and a visor that shades the eyes."""
    low = band_of(face, rng) - 0.02
    band = low + 0.3 * abs(U) ** 2.2
    clear_above(canvas, band - 0.04)
    cover, z = dome(face, band, rng.uniform(0.08, 0.2), 1.08, 2.4)
    seam = np.exp(-(((abs(U) - 0.12 - 0.45 * np.clip(V + 1.75, 0, 1)) / 0.015) ** 2))
    colour = cloth_of(person, rng) * (1 - 0.25 * seam)[..., None]
    if rng.random() < 0.5:
        badge = inside(np.maximum(abs(U) - rng.uniform(0.12, 0.35), abs(V - low + 0.4) - rng.uniform(0.07, 0.2)))
        colour = colour + badge[..., None] * (rng.uniform(0, 0.8, 3) - colour)
    canvas.lay(cover, colour.astype(np.float32), HAT, z=z, gloss=0.05)
    arch = rng.uniform(0.1, 0.3)
    lower = low + 0.1 + arch * (abs(U) / 0.95) ** 2 * 0.7
    upper = low - arch * 0.7 + arch * (abs(U) / 0.95) ** 2 * 1.3
    visor = inside(np.maximum(np.maximum(upper - V, V - lower), abs(U) - 0.92), 0.8)
    deep = 1.55 + 0.55 * np.clip((V - upper) / 0.2, 0, 1) - 0.5 * U * U
    tint = colour * np.float32(0.55 if rng.random() < 0.7 else 0.9)
    canvas.lay(visor, tint.astype(np.float32), HAT, z=deep.astype(np.float32), gloss=0.05)


def draw_brimmed(canvas: Canvas, person: Portrait, face: Anatomy, rng: np.random.Generator) -> None:
    """A crown with a ribbon over a wide or narrow brim: straw, felt, a bucket hat."""
    low = band_of(face, rng) - 0.08
    band = low + 0.12 * U * U
    clear_above(canvas, band - 0.04)
    brim = rng.uniform(1.35, 2.1)
    cover, z = dome(face, band, rng.uniform(0.1, 0.35), rng.uniform(0.98, 1.08), rng.uniform(2.4, 4.5))
    colour = cloth_of(person, rng)
    if rng.random() < 0.35:
        straw = 1 + 0.2 * np.sin(V * 90) * np.sin(U * 70)
        colour = np.asarray(linear((214, 180, 120)) * straw[..., None], dtype=np.float32)
    canvas.lay(cover, colour, HAT, z=z, gloss=0.05)
    ribbon = cover * inside(np.maximum(band - 0.3 - V, V - band))
    canvas.lay(ribbon, colour * np.float32(rng.uniform(0.15, 0.7)), HAT, z=z + np.float32(0.02))
    droop = rng.uniform(-0.12, 0.3) * (abs(U) / brim) ** 2
    tall = rng.uniform(0.1, 0.26)
    y = (V - low - 0.02 - droop) / tall
    rim = inside((np.sqrt((U / brim) ** 2 + y**2) - 1) * 0.3, 0.8)
    under = np.clip(y, -1, 1)
    deep = 1.3 + 0.6 * np.clip(under, -0.5, 1) - 0.25 * U * U
    shade = (0.75 + 0.25 * (under < 0.2))[..., None]
    canvas.lay(rim, (colour * shade).astype(np.float32), HAT, z=deep.astype(np.float32))


def draw_headscarf(canvas: Canvas, person: Portrait, face: Anatomy, rng: np.random.Generator) -> None:
    """About face and neck, or tied over the hair only."""
    folds = 0.05 * noise(rng, 1.6) + 0.02 * np.sin(11 * np.hypot(U, V - 0.2) + 2.5 * noise(rng, 1.6))
    colour = cloth_of(person, rng) * (1 + 3 * folds)[..., None]
    if rng.random() < 0.25:
        blots = noise(rng, 0.6) > rng.uniform(0.2, 1)
        colour = np.where(blots[..., None], colour * rng.uniform(0.2, 2.2, 3), colour)
    if rng.random() < 0.3:
        band = rng.uniform(-1.0, -0.75) + 0.3 * abs(U) ** 2
        clear_above(canvas, band - 0.04)
        cover, z = dome(face, band, rng.uniform(0.05, 0.3), 1.1)
        canvas.lay(cover, colour.clip(0, 1).astype(np.float32), HAT, z=(z + folds).astype(np.float32))
        return
    high, wide = rng.uniform(0.12, 0.22), rng.uniform(1.1, 1.22)
    drape = wide + 0.2 * np.clip(V - 0.9, 0, 3) ** 1.5 + 0.03 * noise(rng, 1.6)
    radius = np.sqrt((U / wide) ** 2 + ((V + 0.2) / (face.top - high + 0.2)) ** 2)
    outer = np.where(V < -0.2, (radius - 1) * wide, abs(U) - drape)
    opening = rng.uniform(-0.98, -0.72)
    middle, tall = (opening + face.chin) / 2, (face.chin - opening) / 2
    hole = (np.sqrt((U / rng.uniform(0.84, 0.93)) ** 2 + (abs(V - middle) / tall) ** 2.2) - 1) * 0.85
    gone = outer > 0
    bare = gone & (face.chin > V)
    canvas.cover[bare], canvas.labels[bare], canvas.z[bare] = 0, 0, 0
    cover = np.minimum(inside(outer), inside(-hole))
    z = 1.25 * np.sqrt(np.clip(1 - (U / (drape + 0.05)) ** 2, 0, 1)) * np.clip(1.1 - 0.35 * abs(V + 0.1), 0.25, 1)
    z = z + folds + 0.05 * np.exp(-((hole / 0.06) ** 2))
    canvas.lay(cover, colour.clip(0, 1).astype(np.float32), HAT, z=z.astype(np.float32), gloss=0.04)

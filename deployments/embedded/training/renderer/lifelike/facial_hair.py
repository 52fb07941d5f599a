"""Brows and beards of single strands, and stubble."""

import numpy as np

from deployments.embedded.training.renderer.lifelike.anatomy import Anatomy
from deployments.embedded.training.renderer.lifelike.canvas import Canvas
from deployments.embedded.training.renderer.lifelike.grid import MIDDLE, SIDE, UNIT, Field, U, V, linear, step
from deployments.embedded.training.renderer.lifelike.mouth import mouth_lines
from deployments.embedded.training.renderer.lifelike.skin import noise
from deployments.embedded.training.renderer.lifelike.strands import Curves, pictured
from deployments.embedded.training.renderer.parts import BEARD, BROW, SKIN
from deployments.embedded.training.renderer.portrait import Portrait, brightness

POINTS = 6  # of a strand


def brow_strands(face: Anatomy, own: np.random.Generator, frown: float) -> Curves:
    """(n, POINTS, 3): from the nose's side outwards, rising first, thinner at the end."""
    count = int(150 + 1500 * face.brow_thick)
    along = own.beta(1.0, 1.15, count)
    x = 0.15 + along * 0.56
    arch = (
        face.brow
        + 0.03
        - face.arch * np.sin(np.clip(along * 1.25, 0, 1) * np.pi * 0.9)
        + 0.06 * along**3
        + 0.05 * (1 - along) ** 3
    )
    spread = face.brow_thick * (1 - 0.65 * along**1.5) * np.minimum(1, 0.55 + along * 3)
    y = arch + own.normal(0, 0.42, count) * spread + frown * (0.05 - 0.09 * along)
    angle = -0.6 + 0.75 * np.minimum(along * 1.6, 1) + own.normal(0, 0.22, count)
    length = own.uniform(0.05, 0.11, count) * (1 - 0.35 * along)
    steps = np.linspace(0, 1, POINTS)
    side = own.choice([-1, 1], count)[:, None]
    across = x[:, None] + np.cos(angle)[:, None] * length[:, None] * steps
    down = y[:, None] + np.sin(angle)[:, None] * length[:, None] * steps
    return np.stack([side * across, down, np.full_like(across, 1.3)], -1).astype(np.float32)


def moustache_field(face: Anatomy) -> Field:
    """(SIDE, SIDE): how dense hair is between nose and upper lip."""
    upper_top = mouth_lines(face)[0]
    top = face.nose_tip + 0.13 + 0.09 * (abs(U) / face.mouth_half) ** 2
    wide = step((face.mouth_half * 1.12 - abs(U)) * 40)
    return np.asarray(step((V - top) * 40) * step((upper_top + 0.012 - V) * 60) * wide, dtype=np.float32)


def chin_field(face: Anatomy, wide: float) -> Field:
    """(SIDE, SIDE): about the mouth and below it, `wide` to each side."""
    lower = mouth_lines(face)[3]
    below = step((V - lower - 0.06) * 40) + step((abs(U) - face.mouth_half - 0.02) * 40)
    ring = step((wide - abs(U) - np.float32(0.25) * np.clip(V - face.chin + 0.1, 0, 1)) * 30)
    return np.asarray(np.clip(below, 0, 1) * ring * step((V - face.nose_tip - 0.16) * 30), dtype=np.float32)


def full_field(face: Anatomy, own: np.random.Generator) -> Field:
    """(SIDE, SIDE): cheeks below a line from the sideburns, jaw and chin."""
    drop = own.uniform(-0.06, 0.1)
    line = np.interp(abs(U), [0.0, 0.42, 0.6, 0.78, 0.92, 1.1], [1.0, 0.86, 0.72, 0.52, 0.12, -0.1]) + drop
    lower = mouth_lines(face)[3]
    mouth = np.maximum(abs(U) - face.mouth_half - 0.03, np.maximum(lower + 0.05 - V, -9))
    return np.asarray(step((V - line) * 22) * step(mouth * 40) + chin_field(face, 0.42), dtype=np.float32).clip(0, 1)


def beard_field(person: Portrait, face: Anatomy) -> Field:
    """(SIDE, SIDE): density of the beard's roots, 0..1."""
    own = np.random.default_rng((person.identity, 14))
    lip = moustache_field(face)
    if person.beard == "moustache":
        return lip
    if person.beard == "goatee":
        return np.maximum(lip if own.random() < 0.75 else lip * 0.15, chin_field(face, face.mouth_half + 0.1))
    return np.maximum(lip, full_field(face, own))


def chin_line(face: Anatomy) -> Field:
    """(SIDE, SIDE): the lower rim of a beard's roots, at the jaw."""
    jaw = face.outline[face.outline[:, 0] > 0.2][::-1]
    return np.interp(abs(U), jaw[:, 1], jaw[:, 0]).astype(np.float32) + np.float32(0.03)


def beard_strands(person: Portrait, face: Anatomy, field: Field, z: Field, own: np.random.Generator) -> Curves:
    """(n, POINTS, 3): down and outwards, longer at the chin."""
    tries = 17000
    column, row = (
        own.integers(int(SIDE * 0.27), int(SIDE * 0.73), tries),
        own.integers(int(MIDDLE[1]), int(MIDDLE[1] + 2 * UNIT), tries),
    )
    kept = (own.random(tries) < field[row, column] * 0.75) & (z[row, column] > 0.1)
    column, row = column[kept] + own.random(kept.sum()), row[kept] + own.random(kept.sum())
    x, y = (column - MIDDLE[0]) / UNIT, (row - MIDDLE[1]) / UNIT
    long = own.uniform(0.07, 0.3) if person.beard == "full" else own.uniform(0.06, 0.15)
    lip = y < face.mouth
    length = np.where(lip, min(long, 0.11), long * (0.55 + 0.9 * step((y - face.mouth) * 6))) * own.uniform(
        0.6, 1, len(x)
    )
    angle = np.where(lip, np.pi / 2 - 0.9 * np.sign(x), np.pi / 2 - 0.35 * x) + own.normal(0, 0.3, len(x))
    steps = np.linspace(0, 1, POINTS)
    curl = own.normal(0, 0.6, len(x))[:, None] * steps
    across = x[:, None] + np.cos(angle[:, None] + curl) * length[:, None] * steps
    down = y[:, None] + np.sin(angle[:, None] + curl) * length[:, None] * steps
    deep = z[row.astype(int), column.astype(int)][:, None] + 0.25 * length[:, None] * np.sin(steps * 2)
    return np.stack([across, down, deep], -1).astype(np.float32)


def draw_facial_hair(canvas: Canvas, person: Portrait, face: Anatomy) -> None:
    """Beard and brows in one picture; the brows of the fair-haired are darker than their hair."""
    own = np.random.default_rng((person.identity, 15))
    curves = [brow_strands(face, own, 1.0 if person.expression == "serious" else 0.0)]
    tones = [np.full(len(curves[0]), 0.75 + 0.25 * own.random())]
    if person.beard == "stubble":
        draw_stubble(canvas, person, face, own)
    elif person.beard != "none":
        field = beard_field(person, face) * ((canvas.labels == SKIN) & (chin_line(face) > V))
        skin = linear(person.hair) * 0.5
        canvas.lay(field * np.float32(0.55) * (canvas.labels > 0), skin.astype(np.float32), None)
        curves.append(beard_strands(person, face, field, canvas.z, own))
        tones.append(own.uniform(0.75, 1.15, len(curves[1])))
    seen = pictured(np.concatenate(curves), np.concatenate(tones).astype(np.float32), 0.85)
    hair = linear(person.hair)
    brow = hair * (0.35 if brightness(person.hair) > 120 else 0.6)
    upper = V < 0.1
    shade = (0.45 + 0.55 * seen.shade)[..., None]
    colour = np.where(upper[..., None], brow, hair * shade**1.3).astype(np.float32)
    faint = np.float32(0.8 if brightness(person.hair) < 120 else 0.6)
    canvas.lay(seen.cover * upper * faint, colour, BROW, z=canvas.z + np.float32(0.01), gloss=0.05)
    if len(curves) > 1:
        canvas.lay(seen.cover * ~upper, colour, BEARD, z=seen.z, gloss=0.08, strand=seen.way)
        part = (field > 0.5) & (canvas.labels == SKIN)
        canvas.labels[part] = BEARD


def draw_stubble(canvas: Canvas, person: Portrait, face: Anatomy, own: np.random.Generator) -> None:
    """Fine dots, and a bluish or brownish shade, where a full beard would grow; the labels stay."""
    field = np.maximum(moustache_field(face), full_field(face, own)) * (canvas.skin > 0.5)
    dots = np.clip(0.6 + 0.3 * noise(own, -0.2), 0, 1.2) * own.uniform(0.35, 0.75)
    hair = linear(person.hair) * 0.6 + np.array([0.0, 0.002, 0.006])
    canvas.lay(
        (field * dots).clip(0, 0.85).astype(np.float32), hair.astype(np.float32), None, z=None, skin=1.0, gloss=0.2
    )

"""Lips with their fine lines, teeth and the dark between them."""

import numpy as np

from deployments.embedded.training.renderer.lifelike.anatomy import Anatomy
from deployments.embedded.training.renderer.lifelike.canvas import Canvas
from deployments.embedded.training.renderer.lifelike.grid import UNIT, Field, U, V, inside, linear
from deployments.embedded.training.renderer.parts import LIPS, TEETH
from deployments.embedded.training.renderer.portrait import Portrait, brightness

GUMS = np.array([0.05, 0.012, 0.012], dtype=np.float32)


def mouth_lines(face: Anatomy) -> tuple[Field, Field, Field, Field]:
    """Heights of the upper lip's top and bottom and the lower lip's top and bottom."""
    t = np.clip(abs(U) / face.mouth_half, 0, 1)
    bow = 1 - t**1.6
    middle = face.mouth - 0.075 * face.smile * t**2 + 0.012 * (1 - t) ** 2
    upper_low = middle - face.gape * 0.25 * bow
    lower_top = middle + face.gape * 1.0 * (1 - t**2)
    dip = 0.22 * np.exp(-((U / (0.16 * face.mouth_half)) ** 2))
    upper_top = upper_low - face.upper_lip * (bow * 0.92 + 0.08 * (1 - t)) * (1.08 - dip)
    lower_low = lower_top + face.lower_lip * (1 - t**2.1)
    return upper_top, upper_low, lower_top, lower_low


def lip_colour(person: Portrait, rng: np.random.Generator) -> Field:
    """(3,) linear: redder and a little darker than the skin, or a lipstick."""
    own = np.random.default_rng((person.identity, 6))
    skin, light = linear(person.skin), brightness(person.skin) / 255
    bare = skin * np.array([0.8, 0.5, 0.52]) * own.uniform(0.85, 1.05) if light > 0.4 else skin * [0.85, 0.62, 0.66]
    if person.gender == "woman" and person.age > 0.15 and rng.random() < 0.4:
        stick = np.array([rng.uniform(0.25, 0.6), rng.uniform(0.015, 0.12), rng.uniform(0.02, 0.14)])
        bare = bare + (stick * (0.4 + 0.6 * light) - bare) * rng.uniform(0.3, 0.95)
    return np.asarray(bare, dtype=np.float32)


def draw_mouth(canvas: Canvas, person: Portrait, face: Anatomy, rng: np.random.Generator) -> None:
    """The opening first, with teeth where it smiles, then both lips over its rim."""
    upper_top, upper_low, lower_top, lower_low = mouth_lines(face)
    edge = abs(U) - face.mouth_half
    own = np.random.default_rng((person.identity, 7))
    if face.gape > 0.005:
        gap = inside(np.maximum(np.maximum(upper_low - V, V - lower_top), edge), 0.6)
        canvas.lay(gap, GUMS, TEETH if face.smile < 0.3 else None)
        draw_teeth(canvas, person, face, upper_low, gap, own)
    lines = 1 + 0.1 * np.sin(U * own.uniform(70, 110) + 3 * np.sin(V * 9)) * own.uniform(0.2, 1)
    colour = lip_colour(person, rng) * lines[..., None].astype(np.float32)
    shine = float(own.uniform(0.1, 0.5)) + (0.4 if person.gender == "woman" and rng.random() < 0.3 else 0.0)
    soft = 1.1 if person.wrinkles < 0.5 else 1.6
    upper = inside(np.maximum(np.maximum(upper_top - V, V - upper_low), edge), soft)
    lower = inside(np.maximum(np.maximum(lower_top - V, V - lower_low), edge), soft)
    canvas.lay(upper, colour * np.float32(0.86), LIPS, gloss=shine * 0.6, skin=1.0)
    canvas.lay(lower, colour, LIPS, gloss=shine, skin=1.0)
    seam = np.exp(-(((V - (upper_low + lower_top) / 2) / (0.012 + face.gape * 0.1)) ** 2)) * np.clip(-edge * 30, 0, 1)
    if face.gape <= 0.005:
        canvas.lay((0.8 * seam).astype(np.float32), lip_colour(person, own) * np.float32(0.18), None)
    corners = np.exp(-(((abs(U) - face.mouth_half) / 0.035) ** 2) - (((V - upper_low) / 0.03) ** 2))
    canvas.tint((1 - 0.4 * corners).astype(np.float32))


def draw_teeth(
    canvas: Canvas, person: Portrait, face: Anatomy, upper_low: Field, gap: Field, own: np.random.Generator
) -> None:
    """The upper row, wider in the middle, darker towards the corners; not where only surprise opens the mouth."""
    white = np.array([0.72, 0.66, 0.54]) * own.uniform(0.75, 1.0) * (1 - 0.2 * person.wrinkles)
    length = np.minimum(0.11 - 0.03 * abs(U) / face.mouth_half, 0.12) * (1.0 if face.smile > 0.3 else 0.5)
    row = (
        gap
        * np.clip(0.5 + (upper_low + length - V) * UNIT, 0, 1)
        * np.clip((face.mouth_half * 0.93 - abs(U)) * 30, 0, 1)
    )
    width = 0.062 * (1 + 0.2 * np.exp(-((U / 0.12) ** 2)))
    between = 1 - 0.28 * np.exp(-(((abs(U) % width - 0) / 0.006) ** 2))
    shade = between * (1 - 0.55 * (abs(U) / face.mouth_half) ** 2)
    canvas.lay(row.astype(np.float32), (white * shade[..., None]).astype(np.float32), TEETH, gloss=0.5)

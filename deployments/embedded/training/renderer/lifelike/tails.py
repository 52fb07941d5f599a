"""What hair is tied into: a knot, a tail, plaits."""

import numpy as np

from deployments.embedded.training.renderer.lifelike.strands import Curves, Growth, grown
from deployments.embedded.training.renderer.lifelike.styles import Style
from deployments.embedded.training.renderer.portrait import Portrait


def is_high(person: Portrait) -> bool:
    """Tied on top rather than at the nape."""
    return bool(np.random.default_rng((person.identity, 13)).random() < 0.6)


def knot_of(person: Portrait, style: Style) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(3,): where all hair is drawn to; of plaits, on the right."""
    if style.tail == "braids":
        return np.array([1.02, 0.42, 0.1])
    return np.array([0.0, -1.5, -0.75]) if is_high(person) else np.array([0.0, -0.1, -1.5])


def tail_curves(person: Portrait, style: Style, own: np.random.Generator) -> tuple[Curves, bool]:
    """(n, points, 3), and whether they hang before the shoulders."""
    if style.tail == "bun":
        return bun(knot_of(person, style), own), False
    if style.tail == "ponytail":
        return ponytail(person, knot_of(person, style), own), False
    return np.concatenate([plait(side, own) for side in (-1, 1)]), True


def bun(knot: np.ndarray[tuple[int], np.dtype[np.float64]], own: np.random.Generator) -> Curves:
    """Arcs about a ball behind the crown, or low behind the neck, where the head hides most of it."""
    count, size = 420, own.uniform(0.28, 0.42)
    axis = own.normal((0, 1.2, 0), 1, (count, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    first = np.cross(axis, own.normal(0, 1, (count, 3)))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(axis, first)
    angle = np.linspace(0, 2.4, 14)[None, :, None]
    ring = first[:, None] * np.cos(angle) + second[:, None] * np.sin(angle)
    radius = own.uniform(0.75, 1.0, (count, 1, 1)) * size
    centre = knot + np.array([own.normal(0, 0.06), -0.14 if knot[1] < -1 else 0.25, 0])
    return np.asarray(centre + ring * radius * [1.15, 0.9, 1.0] + own.normal(0, 0.01, ring.shape), dtype=np.float32)


def ponytail(person: Portrait, knot: np.ndarray[tuple[int], np.dtype[np.float64]], own: np.random.Generator) -> Curves:
    """From the knot backwards, then down, mostly to one side."""
    count, side = 360, np.sign(person.parting + 1e-9)
    roots = (knot + own.normal(0, 0.07, (count, 3))).astype(np.float32)
    start = np.array([side * own.uniform(0.5, 1.6), -0.7, -0.6]) + own.normal(0, 0.2, (count, 3))
    length = own.uniform(2.4, 3.4, count).astype(np.float32)
    comb = np.tile([side * 0.12, 0.0, -0.1], (count, 1)).astype(np.float32)
    return grown(roots, Growth(length, start.astype(np.float32), 1.0, 0.2, 0.2, 18, comb))


def plait(side: int, own: np.random.Generator) -> Curves:
    """Three strands that cross by turns, from below an ear to the chest."""
    count, points = 240, 40
    along = np.linspace(0, 1, points)
    y = 0.35 + along * own.uniform(1.6, 2.1)
    x = side * (1.02 - 0.12 * along)
    z = 0.25 + 0.4 * np.minimum(1, along * 2)
    phase = (np.arange(count) % 3) * 2 * np.pi / 3
    swing = along[None] * 2 * np.pi * 5.5 + phase[:, None]
    curve = np.stack([x + 0.085 * np.sin(swing), np.tile(y, (count, 1)), z + 0.06 * np.sin(2 * swing)], -1)
    curve = curve + own.normal(0, 0.032, (count, 1, 3)) * (1.1 - along)[None, :, None] ** 0.3
    return np.asarray(curve, dtype=np.float32)

"""The bare head: skin over the height field, ears, and what age has drawn."""

import numpy as np

from deployments.embedded.training.renderer.lifelike.anatomy import Anatomy
from deployments.embedded.training.renderer.lifelike.canvas import Canvas
from deployments.embedded.training.renderer.lifelike.grid import Field, U, both, hill, inside
from deployments.embedded.training.renderer.lifelike.skin import ear_distance, nostrils
from deployments.embedded.training.renderer.lifelike.surface import head_cover, head_height
from deployments.embedded.training.renderer.parts import SKIN
from deployments.embedded.training.renderer.portrait import Portrait


def draw_ears(canvas: Canvas, face: Anatomy, skin: Field, grown: float) -> None:
    """Two leaning shells with a rim and a dark hollow."""
    for side in (-1, 1):
        distance = ear_distance(face, side, grown)
        rim = np.exp(-(((distance + 0.03) / 0.025) ** 2))
        inner = np.exp(-(((distance + 0.13) / 0.06) ** 2))
        z = 0.12 + 0.1 * np.clip(side * U - 0.9, 0, 1) + 0.05 * rim
        shade = (1 - 0.4 * inner + 0.06 * rim)[..., None] * np.array([1.08, 0.92, 0.92])
        cover = inside(distance)
        canvas.lay(cover, (skin * shade).astype(np.float32), SKIN, z=z.astype(np.float32), gloss=0.3, skin=1.0)


def draw_face(canvas: Canvas, person: Portrait, face: Anatomy, skin: Field, folds: Field) -> None:
    """Over neck and ears."""
    z = head_height(face) - np.float32(0.034) * folds
    oily = 0.35 + 0.5 * (hill(0, 0.35, 0.18, 0.35) + hill(0, -0.6, 0.45, 0.25) + 0.6 * both(0.5, 0.35, 0.2, 0.15))
    own = np.random.default_rng((person.identity, 8))
    gloss = (oily * own.uniform(0.3, 1.2)).astype(np.float32)
    canvas.lay(head_cover(face), skin * nostrils(face)[..., None].astype(np.float32), SKIN, z=z, gloss=gloss, skin=1.0)

"""A flat drawing before something, as a second look of photos: what the face encoder may rely on is in both."""

import numpy as np
from PIL import Image

from deployments.embedded.training.renderer.backdrop import backdrop
from deployments.embedded.training.renderer.camera import through_a_camera
from deployments.embedded.training.renderer.drawing import FACE_X, FACE_Y, Look, Sketch
from deployments.embedded.training.renderer.flat.figure import draw_flat
from deployments.embedded.training.renderer.parts import UNTOLD
from deployments.embedded.training.renderer.photo import Box, Pixels, jittered_box
from deployments.embedded.training.renderer.portrait import Portrait, another_sitting
from deployments.face.alignment import CROP_SIZE, crop_face

SIDE = 224  # pixels of the picture that the crop is taken from
FACE_SIDE = 98.0  # of the detector's square, in drawing units
FACE_BELOW = 6.0  # of its centre, below the face's


def flat_view(portrait: Portrait, rng: np.random.Generator) -> Pixels:
    """(CROP_SIZE, CROP_SIZE, 4): a crop as the encoder sees it; its parts are untold, its features being sketchy."""
    sitting = another_sitting(portrait, rng)
    picture, alpha = draw_flat(sitting, SIDE, random_look(rng))
    behind = Image.fromarray(backdrop(SIDE, rng).clip(0, 255).astype(np.uint8))
    shown = np.asarray(Image.composite(picture, behind, alpha), dtype=np.uint8)
    crop = through_a_camera(crop_face(shown, jittered_box(face_box(sitting, SIDE), rng)), rng)
    return np.concatenate([crop, np.full((CROP_SIZE, CROP_SIZE, 1), UNTOLD, dtype=np.uint8)], -1)


def face_box(portrait: Portrait, size: int) -> Box:
    """Where the detector sees the face of a flat drawing of `size` pixels: an upright square."""
    sketch = Sketch(portrait, size, Look())
    ((x, y),) = sketch.place([(FACE_X, FACE_Y + FACE_BELOW)])
    ((left, _), (right, _)) = sketch.place([(0.0, 0.0), (FACE_SIDE, 0.0)], head=False)
    x, y, half = x / 2, y / 2, (right - left) / 4
    return x - half, y - half, x + half, y + half


def random_look(rng: np.random.Generator) -> Look:
    """Light from above at a random angle and strength, contrast, strands; one in five squints."""
    angle = rng.uniform(0, 2 * np.pi)
    strength = rng.uniform(0.2, 1.4)
    return Look(
        eye_scale=float(rng.uniform(0.12, 0.3) if rng.random() < 0.2 else rng.uniform(0.3, 0.95)),
        contrast=float(rng.uniform(0.6, 1.8)),
        light=(float(np.cos(angle) * strength), float(-abs(np.sin(angle)) * strength)),
        strands=float(rng.uniform(0.3, 2.2)),
    )

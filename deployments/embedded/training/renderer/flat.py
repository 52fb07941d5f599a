"""A flat drawing before something, as a second look of photos: what the face encoder may rely on is in both."""

import numpy as np
from PIL import Image

from deployments.embedded.training.renderer.backdrop import backdrop
from deployments.embedded.training.renderer.camera import through_a_camera
from deployments.embedded.training.renderer.figure import render
from deployments.embedded.training.renderer.parts import UNTOLD
from deployments.embedded.training.renderer.photo import Pixels, face_box, jittered_box, random_look
from deployments.embedded.training.renderer.portrait import Portrait, another_sitting
from deployments.face.alignment import CROP_SIZE, crop_face

SIDE = 224  # pixels of the picture that the crop is taken from


def flat_view(portrait: Portrait, rng: np.random.Generator) -> Pixels:
    """(CROP_SIZE, CROP_SIZE, 4): a crop as the encoder sees it; its parts are untold, its features being sketchy."""
    sitting = another_sitting(portrait, rng)
    picture, alpha = render(sitting, SIDE, random_look(rng))
    behind = Image.fromarray(backdrop(SIDE, rng).clip(0, 255).astype(np.uint8))
    shown = np.asarray(Image.composite(picture, behind, alpha), dtype=np.uint8)
    crop = through_a_camera(crop_face(shown, jittered_box(face_box(sitting, SIDE), rng)), rng)
    return np.concatenate([crop, np.full((CROP_SIZE, CROP_SIZE, 1), UNTOLD, dtype=np.uint8)], -1)

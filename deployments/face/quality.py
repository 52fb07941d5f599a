"""Inspection of a photo before anything is generated: every face, its sharpness, and whether it can be used."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from deployments.face.detection import Detection, largest_face
from deployments.types import Box, FoundFace, FoundFaces, Pixels

SHARPNESS_SIDE = 112  # pixels; the input size of face encoders
INSIDE = 2  # pixels of a box that must be in the photo


def inspected(pixels: Pixels, faces: Sequence[Detection], min_face_px: int) -> FoundFaces:
    """The detected faces of an (h, w, 3) RGB photo."""
    found = tuple(
        FoundFace(face.box, face.score, sharpness(pixels, face.box))
        for face in sorted(faces, key=lambda face: -face.area)
    )
    if isinstance(largest_face(faces, min_face_px), Detection):
        return FoundFaces(found, min_face_px)
    return FoundFaces(found, min_face_px, "face_too_small" if found else "no_face")


def sharpness(pixels: Pixels, box: Box) -> float:
    """Standard deviation of the Laplacian of a face's luminance, in grey levels.

    Measured at the encoder's input size, so that faces of all sizes are comparable. Sharp faces have 10 or more,
    blurred ones less than 5.
    """
    height, width = pixels.shape[:2]
    left, right = np.clip((box[0], box[2]), 0, width)
    top, bottom = np.clip((box[1], box[3]), 0, height)
    if min(right - left, bottom - top) < INSIDE:
        return 0.0
    side = (SHARPNESS_SIDE, SHARPNESS_SIDE)
    face = Image.fromarray(pixels).convert("L").resize(side, Image.Resampling.BILINEAR, (left, top, right, bottom))
    gray = np.asarray(face, dtype=np.float32)
    around = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
    return float((around - 4 * gray[1:-1, 1:-1]).std())

"""A look at a photo before anything is generated for it: every face, how sharp it is, and whether it can be used."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from deployments.face.detection import Detection, largest_face
from deployments.types import Box, FoundFace, FoundFaces, Pixels

SHARPNESS_SIDE = 112  # pixels; what face encoders see of a face
INSIDE = 2  # pixels at least of a box that are in the photo


def inspected(pixels: Pixels, faces: Sequence[Detection], min_face_px: int) -> FoundFaces:
    """What the detector found on an (h, w, 3) RGB photo."""
    found = tuple(
        FoundFace(face.box, face.score, sharpness(pixels, face.box))
        for face in sorted(faces, key=lambda face: -face.area)
    )
    if isinstance(largest_face(faces, min_face_px), Detection):
        return FoundFaces(found, min_face_px)
    return FoundFaces(found, min_face_px, "face_too_small" if found else "no_face")


def sharpness(pixels: Pixels, box: Box) -> float:
    """How much fine detail a face shows: the spread of the Laplacian of its luminance, in grey levels.

    Measured at the size that encoders see, so that faces of all sizes compare. Sharp ones have 10 and more, blurred
    ones less than 5.
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

"""What a photo is like: every face, its sharpness, whether it can be used, and what its owner should know."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from deployments.face.detection import Detection, largest_face
from deployments.face.exposure import COLOURED_LIGHT, POOR_LIGHT, light_lacking
from deployments.face.head import tilt
from deployments.face.light import FaceLight, face_light
from deployments.types import FACE_WARNINGS, Box, FoundFace, FoundFaces, Landmarks, Pixels

SHARPNESS_SIDE = 112  # pixels; the input size of face encoders
INSIDE = 2  # pixels of a box that must be in the photo
BLURRED = 5.0  # sharpness below which a face is blurred
DISPLAY_GAMMA = 2.2  # grey levels grow with the light to the power of its inverse
BACKLIT = 4.0  # how many times brighter than the lit side of a face in shade its surround is
TILTED = math.radians(20)  # of the line between the eyes; people hold their heads at up to about 15 degrees


def inspected(pixels: Pixels, faces: Sequence[Detection], min_face_px: int, *, uncertain: bool = False) -> FoundFaces:
    """The detected faces of an (h, w, 3) RGB photo; `uncertain` as in `largest_face`."""
    found = tuple(
        FoundFace(face.box, face.score, sharpness(pixels, face.box))
        for face in sorted(faces, key=lambda face: -face.area)
    )
    if isinstance(used := largest_face(faces, min_face_px), Detection):
        return FoundFaces(found, min_face_px, warnings=face_warnings(pixels, used.box, used.landmarks))
    return FoundFaces(found, min_face_px, "face_too_small" if found else "no_face", uncertain=uncertain and not found)


def face_warnings(pixels: Pixels, box: Box, landmarks: Landmarks | None) -> tuple[str, ...]:
    """What its owner should know of the face at `box` of an (h, w, 3) photo: codes of FACE_WARNINGS, in their order."""
    light = face_light(pixels, box)
    lacking = light_lacking(light)
    in_shade = lacking >= POOR_LIGHT
    # A dark photo has few grey levels, sharp or not.
    detail = sharpness(pixels, box) * lacking ** (1 / DISPLAY_GAMMA)
    told = {
        "too_dark": in_shade and not _is_backlit(light),
        "backlit": in_shade and _is_backlit(light),
        "colour_cast": not light.is_grey and math.hypot(*light.cast) >= COLOURED_LIGHT,
        "monochrome": light.is_grey,
        "tilted": abs(tilt(landmarks)) >= TILTED,
        "blurred": detail < BLURRED,
    }
    return tuple(code for code in FACE_WARNINGS if told[code])


def _is_backlit(light: FaceLight) -> bool:
    return light.surround >= BACKLIT * light.skin


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

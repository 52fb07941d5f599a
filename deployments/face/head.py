"""The picture of a head from which models with an image encoder draw: upright, square, small enough to travel."""

import io
import math

import numpy as np
from PIL import Image

from deployments.types import Box, FaceEmbedding, Landmarks, Pixels

ENLARGEMENT = 1.7  # side of the picture over the longer side of the face's box: hair, ears and chin
UPWARD_SHIFT = 0.06  # of the box's side, towards the hair
JPEG_QUALITY = 92  # about 20 kB at 224 pixels: Ray sends arguments of up to 100 kB along with a call, not by its store


def head_jpeg(pixels: Pixels, face: FaceEmbedding, side: int) -> bytes:
    """The head of a face on an (h, w, 3) photo as a JPEG of `side` x `side` pixels."""
    file = io.BytesIO()
    Image.fromarray(head_picture(pixels, face.box, face.landmarks, side)).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def head_picture(pixels: Pixels, box: Box, landmarks: Landmarks | None, side: int) -> Pixels:
    """(side, side, 3), turned so that the eyes are level; beyond the photo its edge pixels repeat."""
    x0, y0, x1, y1 = box
    longer = max(x1 - x0, y1 - y0, 1.0)
    angle = tilt(landmarks)
    cos, sin = math.cos(angle), math.sin(angle)
    centre_x = (x0 + x1) / 2 + UPWARD_SHIFT * longer * sin
    centre_y = (y0 + y1) / 2 - UPWARD_SHIFT * longer * cos
    source = longer * ENLARGEMENT  # pixels of the photo along a side
    reach = math.ceil(source / 2 * (abs(cos) + abs(sin))) + 2
    left, top = math.floor(centre_x) - reach, math.floor(centre_y) - reach
    around = Image.fromarray(_square(pixels, left, top, 2 * reach + 1))
    factor = max(1, int(source // side))  # the transformation looks at few pixels: large ones are averaged before
    scale = source / side / factor
    x, y = (centre_x - left) / factor, (centre_y - top) / factor
    half = side / 2
    coefficients = (
        scale * cos, -scale * sin, x - scale * half * (cos - sin),
        scale * sin, scale * cos, y - scale * half * (sin + cos),
    )  # fmt: skip
    turned = around.reduce(factor).transform(
        (side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
    )
    return np.asarray(turned, dtype=np.uint8)


def tilt(landmarks: Landmarks | None) -> float:
    """Radians by which the line from the photo's left eye to its right one falls; 0 without landmarks."""
    if landmarks is None:
        return 0.0
    (left_x, left_y), (right_x, right_y) = landmarks[:2]
    return math.atan2(float(right_y - left_y), float(right_x - left_x))


def _square(pixels: Pixels, left: int, top: int, side: int) -> Pixels:
    """A square of the photo, which may reach beyond it."""
    rows = np.clip(np.arange(top, top + side), 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(left, left + side), 0, pixels.shape[1] - 1)
    return pixels[rows[:, None], columns]

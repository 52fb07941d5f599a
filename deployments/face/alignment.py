"""The input crop of the embedded face encoder: the detector's box, enlarged to include hair and chin."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.face.upright import level_square

CROP_SIZE = 192  # pixels of a side, of the embedded encoder
ENLARGEMENT = 1.9  # side of the crop over the longer side of the detector's box
UPWARD_SHIFT = 0.08  # of the box's side: more hair, less chest


def crop_square(box: tuple[float, float, float, float]) -> tuple[int, int, int]:
    """Left, top and side, in pixels, of the enlarged square; it may extend beyond the picture."""
    x0, y0, x1, y1 = box
    longer = max(x1 - x0, y1 - y0)
    side = max(2, round(longer * ENLARGEMENT))
    centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2 - UPWARD_SHIFT * longer
    return round(centre_x - side / 2), round(centre_y - side / 2), side


def crop_face(
    image: NDArray[np.uint8], box: tuple[float, float, float, float], size: int = CROP_SIZE
) -> NDArray[np.uint8]:
    """(h, w, 3) RGB and a face box x0, y0, x1, y1 -> (size, size, 3); beyond the picture its edge pixels repeat."""
    height, width = image.shape[:2]
    left, top, side = crop_square(box)
    before_y, after_y = max(0, -top), max(0, top + side - height)
    before_x, after_x = max(0, -left), max(0, left + side - width)
    inside = image[max(0, top) : min(height, top + side), max(0, left) : min(width, left + side)]
    square = np.pad(inside, ((before_y, after_y), (before_x, after_x), (0, 0)), mode="edge")
    resized = Image.fromarray(square).resize(
        (size, size), Image.Resampling.BOX if side > size else Image.Resampling.BILINEAR
    )
    return np.asarray(resized, dtype=np.uint8)


def crop_turned_face(
    image: NDArray[np.uint8], box: tuple[float, float, float, float], turn: float, size: int = CROP_SIZE
) -> NDArray[np.uint8]:
    """As `crop_face`, of a face that is turned by `turn` radians, clockwise: the crop shows it upright."""
    x0, y0, x1, y1 = box
    longer = max(x1 - x0, y1 - y0)
    up = UPWARD_SHIFT * longer
    middle = (x0 + x1) / 2 + up * math.sin(turn), (y0 + y1) / 2 - up * math.cos(turn)
    return np.asarray(level_square(Image.fromarray(image), middle, longer * ENLARGEMENT, turn, size))


def encoder_input(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, size, size, 3) RGB bytes -> the encoder's (n, 3, size, size) in -1..1."""
    return np.ascontiguousarray(crops.transpose(0, 3, 1, 2), dtype=np.float32) / 127.5 - 1.0

"""Frontal faces with scikit-image's LBP cascade (Liao et al. 2007), its false positives filtered.

The cascade alone answers "a window passed", which texture does too. What separates a face from texture is how many
neighbouring windows pass as well: so every candidate is cut out, brought to one size and scanned again, densely. That
count does not depend on the size of the face or of the photo; the structure of the patch is softer evidence beside it.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage.data import lbp_frontal_face_cascade_filename
from skimage.feature import Cascade

from deployments.types import Box, Pixels

WINDOW = 24  # pixels; the cascade's own
PATCH = 96  # pixels; a candidate is scanned again at this size, its own box being half of it
MAX_CANDIDATES = 10  # a pass
ACCEPTED_SCORE = 0.5

Gray = npt.NDArray[np.uint8]
Windows = npt.NDArray[np.float64]  # (n, 3): left, top, side


@dataclass(frozen=True, slots=True)
class Detection:
    """A face: `box` in pixels of the photo, `score` in 0..1."""

    box: Box
    score: float

    @property
    def side(self) -> float:
        return self.box[2] - self.box[0]


@dataclass(frozen=True, slots=True)
class ScanPass:
    """One look at the photo: shrunk to `side` pixels, turned by `degrees`, for windows up to `max_window` pixels."""

    side: int
    degrees: int
    max_window: int


# Coarse first: the largest face is the one wanted. Small faces, then tilted ones, only where nothing was found.
PASSES = (ScanPass(256, 0, 1024), ScanPass(640, 0, 84), ScanPass(256, 15, 1024), ScanPass(256, -15, 1024))


def find_faces(pixels: Pixels) -> list[Detection]:
    """The faces of an (h, w, 3) RGB picture, largest first; of small or tilted ones only if there is no other."""
    photo = Image.fromarray(pixels).convert("L")
    for scan_pass in PASSES:
        if scan_pass.side > WINDOW * 12 and max(photo.size) <= 256:
            continue  # the first pass saw every pixel
        if faces := _scan(photo, scan_pass):
            return sorted(faces, key=lambda face: -face.side)
    return []


def _scan(photo: Image.Image, scan_pass: ScanPass) -> list[Detection]:
    shrink = min(1.0, scan_pass.side / max(photo.size))
    width, height = (max(1, round(side * shrink)) for side in photo.size)
    margin = max(width, height) // 8  # a face that fills the photo needs ground around it
    small = photo.resize((width, height), Image.Resampling.BOX if shrink < 1 else None)
    padded = Image.fromarray(np.pad(np.asarray(small), margin, mode="edge"))
    centre_x, centre_y = padded.width / 2, padded.height / 2
    turned = padded.rotate(scan_pass.degrees, Image.Resampling.BILINEAR) if scan_pass.degrees else padded

    cosine, sine = math.cos(math.radians(scan_pass.degrees)), math.sin(math.radians(scan_pass.degrees))
    faces = []
    for candidate in _candidates(np.asarray(turned), scan_pass.max_window):
        judged = _judge(turned, candidate)
        if judged is None:
            continue
        (left, top, side), score = judged
        x, y = left + side / 2 - centre_x, top + side / 2 - centre_y
        x, y = x * cosine - y * sine + centre_x - margin, x * sine + y * cosine + centre_y - margin
        faces.append(Detection(_box(x / shrink, y / shrink, side / shrink), score))
    return list(_distinct(faces))


def _box(centre_x: float, centre_y: float, side: float) -> Box:
    return centre_x - side / 2, centre_y - side / 2, centre_x + side / 2, centre_y + side / 2


def _distinct(faces: Iterable[Detection]) -> Iterator[Detection]:
    """The best of each group of detections whose centres lie within one another."""
    kept: list[Detection] = []
    for face in sorted(faces, key=lambda face: -face.score):
        x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
        if not any(other.box[0] < x < other.box[2] and other.box[1] < y < other.box[3] for other in kept):
            kept.append(face)
            yield face


@lru_cache(maxsize=1)
def _cascade() -> Cascade:
    return Cascade(lbp_frontal_face_cascade_filename())


def _windows(gray: Gray, scale_factor: float, step_ratio: float, sides: tuple[int, int]) -> Windows:
    """Every window that passes the cascade, unmerged, in an order that does not depend on its threads."""
    found = _cascade().detect_multi_scale(
        gray,
        scale_factor=scale_factor,
        step_ratio=step_ratio,
        min_size=(sides[0], sides[0]),
        max_size=(sides[1], sides[1]),
        min_neighbor_number=1,
        intersection_score_threshold=2.0,  # no overlap reaches 2: nothing is merged
    )
    windows = np.array([(w["c"], w["r"], w["width"]) for w in found], dtype=np.float64).reshape(-1, 3)
    return windows[np.lexsort(windows.T)]


def _groups(windows: Windows) -> list[tuple[int, Windows]]:
    """Neighbouring windows together: how many they are, and their mean; the largest group first."""
    groups = []
    while len(windows):
        side = windows[:, 2]
        centre = windows[:, :2] + side[:, None] / 2
        smaller = np.minimum(side[:, None], side[None])
        near = np.abs(centre[:, None] - centre[None]).max(axis=2) < 0.25 * smaller
        near &= np.maximum(side[:, None], side[None]) < 1.42 * smaller
        members = near[near.sum(axis=1).argmax()]
        groups.append((int(members.sum()), windows[members].mean(axis=0)))
        windows = windows[~members]
    return groups


def _candidates(gray: Gray, max_window: int) -> list[Windows]:
    sides = (WINDOW, min(max_window, *gray.shape))
    groups = _groups(_windows(gray, 1.1, 1.0, sides)) if min(gray.shape) > WINDOW else []
    return [mean for count, mean in groups[:MAX_CANDIDATES] if count >= 2]


def _judge(picture: Image.Image, candidate: Windows) -> tuple[tuple[float, float, float], float] | None:
    """A second, dense look at one candidate: its corrected left, top and side, and its score; None if it is no face."""
    left, top, side = (float(value) for value in candidate)
    x, y = left - side / 2, top - side / 2
    box = (x, y, x + 2 * side, y + 2 * side)
    patch = picture.transform((PATCH, PATCH), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
    groups = _groups(_windows(np.asarray(patch), 1.05, 1.0, (PATCH * 3 // 8, PATCH * 3 // 4)))
    middle = [(count, mean) for count, mean in groups if np.abs(mean[:2] + mean[2] / 2 - PATCH / 2).max() < PATCH / 7]
    if not middle:
        return None
    support, mean = middle[0]
    score = face_score(support)
    if score < ACCEPTED_SCORE:
        return None
    unit = 2 * side / PATCH
    return (x + float(mean[0]) * unit, y + float(mean[1]) * unit, float(mean[2]) * unit), score


def face_score(support: int) -> float:
    return 1 / (1 + math.exp(-(support - 10) / 3))

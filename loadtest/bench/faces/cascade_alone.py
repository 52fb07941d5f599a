"""What this project had before its search: the cascade alone, whose first look with a find ended the search."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from deployments.face import cascade
from deployments.face.cascade import MIN_SUPPORT, SETTLING_ROUNDS, Window, skin_share, warmth
from deployments.face.detection import Detection, Plane
from deployments.face.upright import square_about
from deployments.types import Pixels

EVEN_SUPPORT, SUPPORT_SPREAD = 10.0, 3.0  # the mean support at which the score is 0.5; above it by this, 0.73
CERTAIN_SCORE = 0.95


@dataclass(frozen=True, slots=True)
class Scan:
    """One search of one plane; scans with many windows have more chance hits, and a higher least score."""

    plane: Plane
    side: int
    degrees: int = 0
    min_window: int = cascade.WINDOW
    max_window: int = 1024
    min_score: float = 0.5


# Coarse first, as the largest face is wanted. Small faces, then tilted ones, only where nothing was found.
PASSES: tuple[tuple[Scan, ...], ...] = (
    (Scan("luminance", 256), Scan("warmth", 256)),
    (Scan("luminance", 576, max_window=72, min_score=0.9),),
    (Scan("luminance", 256, 15, min_score=0.9), Scan("luminance", 256, -15, min_score=0.9)),
)

# Windows from about a fifth of the photo's side: there are few.
LARGE_ONLY = Scan("luminance", 256, min_window=48)


def find_largest(pixels: Pixels) -> list[Detection]:
    """As `find_faces`, but returns only large faces if one is certain: the other scans take most of the time."""
    large = _search(Image.fromarray(pixels), LARGE_ONLY)
    return _largest_first(filter(_is_certain, large)) or find_faces(pixels)


def find_faces(pixels: Pixels) -> list[Detection]:
    """The faces of an (h, w, 3) RGB picture, largest first; small or tilted ones only if there are no others."""
    photo = Image.fromarray(pixels)
    for scans in PASSES:
        faces: list[Detection] = []
        for scan in scans:
            faces += _search(photo, scan)
            if any(map(_is_certain, faces)):
                break
        if faces:  # next to a certain face, an uncertain one is more likely a false positive
            return _largest_first(filter(_is_certain, faces)) or _largest_first(faces)
    return []


def _is_certain(face: Detection) -> bool:
    return face.score >= CERTAIN_SCORE


def _largest_first(faces: Iterable[Detection]) -> list[Detection]:
    return sorted(_distinct(faces), key=lambda face: -face.side)


def _search(photo: Image.Image, scan: Scan) -> list[Detection]:
    shrink = min(1.0, scan.side / max(photo.size))
    size = max(1, round(photo.width * shrink)), max(1, round(photo.height * shrink))
    margin = max(size) // 8  # a face that fills the photo needs a margin
    small = np.asarray(photo.resize(size, Image.Resampling.BOX if shrink < 1 else Image.Resampling.NEAREST))
    padded = Image.fromarray(np.pad(small, ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
    turned = padded.rotate(scan.degrees, Image.Resampling.BILINEAR) if scan.degrees else padded
    plane = turned.convert("L") if scan.plane == "luminance" else warmth(np.asarray(turned))

    faces = []
    for _, candidate in cascade._candidates(np.asarray(plane), scan.min_window, scan.max_window):
        evidence, window = cascade._evidence(plane, candidate)
        if evidence < MIN_SUPPORT:
            continue
        skin, saturation = skin_share(turned, window)
        if scan.plane == "warmth" and skin < cascade.SKIN_SHARE_OF_WARM_FACES:
            continue
        score = face_score(
            evidence
            if skin >= cascade.SKIN_SHARE or saturation < cascade.GREY_SATURATION
            else evidence * cascade.UNLIKELY_HUE
        )
        if score >= scan.min_score:
            left, top, side = _settled(plane, window)
            x, y = cascade._rotated_back(left + side / 2, top + side / 2, turned.size, scan.degrees)
            if not (margin <= x < margin + size[0] and margin <= y < margin + size[1]):
                continue  # in the margin
            faces.append(Detection(square_about(((x - margin) / shrink, (y - margin) / shrink), side / shrink), score))
    return faces


def _distinct(faces: Iterable[Detection]) -> Iterator[Detection]:
    """The best of each group of detections whose centres lie within one another."""
    kept: list[Detection] = []
    for face in sorted(faces, key=lambda face: -face.score):
        x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
        if not any(other.box[0] < x < other.box[2] and other.box[1] < y < other.box[3] for other in kept):
            kept.append(face)
            yield face


def _settled(plane: Image.Image, window: Window) -> Window:
    """The window after repeated dense scans: one face gets one box, independent of where the first scan hit it."""
    for _ in range(SETTLING_ROUNDS):
        _, window = cascade._support(cascade._patch(plane, window), window)
    return window


def face_score(evidence: float) -> float:
    """0..1; 0.5 where a patch is equally likely to be a face or not."""
    return 1 / (1 + math.exp((EVEN_SUPPORT - evidence) / SUPPORT_SPREAD))

"""Frontal face detection with scikit-image's LBP cascade (Liao et al. 2007) and a filter for its false positives.

Windows on texture pass the cascade as well as faces. On a face the neighbouring windows pass too, even when the picture
is mirrored or blurred. So every candidate is cropped, scaled to one size and scanned densely three times; the support,
the mean number of passing windows, does not depend on the size of face or photo. Photos without a face reach about 10,
faces 20 to 90.

Two planes are searched. In luminance, eyes, brows and mouth are dark on light. On dark skin, mostly in drawings, the
white of the eyes inverts that; in the warmth plane (red over green and blue) skin is bright, and eyes, brows and hair
are dark, for every skin colour.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage.data import lbp_frontal_face_cascade_filename
from skimage.feature import Cascade

from deployments.face.detection import Candidate, Detection
from deployments.types import Box, Pixels

WINDOW = 24  # pixels; the cascade's own
PATCH = 96  # pixels; candidates are rescanned at this size, the box being half of it
BLURRED_PATCH = 40  # pixels; the patch is shrunk to this and scaled back
COARSE_FACTOR, COARSE_STEP = 1.12, 1.5  # of the first scan, where one window on a face is enough
MAX_CANDIDATES = 12  # a scan

SETTLING_ROUNDS = 3
MIN_SUPPORT = 5  # of the first dense scan; with less the others are skipped
EVEN_SUPPORT = 10.0  # the mean support at which the score is 0.5
SUPPORT_SPREAD = 3.0  # above it by this, the score is 0.73
FULL_CONTRAST = 20.0  # standard deviation of the patch, of 255; support on a flatter patch counts less
SKIN_SHARE_OF_WARM_FACES = 0.5  # minimum of the box for faces found in the warmth plane
SKIN_SHARE = 0.3  # with less, a coloured patch needs more support; a grey one does not
UNLIKELY_HUE = 0.4  # weight of its support then
GREY_SATURATION = 0.12  # mean of (max - min) / max of the channels

ENOUGH_SUPPORT = 15.0  # in luminance: warmth is not asked
CERTAIN_SCORE = 0.95  # a face with this score ends the search

Gray = npt.NDArray[np.uint8]
Window = tuple[float, float, float]  # left, top, side
Windows = npt.NDArray[np.float64]  # (n, 3): left, top, side


@dataclass(frozen=True, slots=True)
class Scan:
    """One search of one plane: the photo shrunk to `side` pixels, rotated by `degrees`, windows of these sizes."""

    plane: Literal["luminance", "warmth"]
    side: int
    degrees: int = 0
    min_window: int = WINDOW
    max_window: int = 1024
    min_score: float = 0.5  # scans with many windows have more chance hits


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
    for candidate in _candidates(np.asarray(plane), scan.min_window, scan.max_window):
        evidence, window = _evidence(plane, candidate)
        if evidence < MIN_SUPPORT:
            continue
        skin, saturation = skin_share(turned, window)
        if scan.plane == "warmth" and skin < SKIN_SHARE_OF_WARM_FACES:
            continue
        score = face_score(evidence if skin >= SKIN_SHARE or saturation < GREY_SATURATION else evidence * UNLIKELY_HUE)
        if score >= scan.min_score:
            left, top, side = _settled(plane, window)
            x, y = _rotated_back(left + side / 2, top + side / 2, turned.size, scan.degrees)
            if not (margin <= x < margin + size[0] and margin <= y < margin + size[1]):
                continue  # in the margin
            faces.append(Detection(_box((x - margin) / shrink, (y - margin) / shrink, side / shrink), score))
    return faces


@dataclass(frozen=True, slots=True)
class Witness:
    """What the cascade says of one level square: its support there, in which plane, and how much of it is skin."""

    support: float
    plane: Literal["luminance", "warmth"]
    skin: float
    saturation: float


def proposals(photo: Image.Image, scan: Scan) -> list[Candidate]:
    """Where windows pass on the photo as the scan turns it; nothing is checked yet, and the score is 0."""
    small, shrink, margin = _shrunk(photo, scan.side)
    turned = small.rotate(scan.degrees, Image.Resampling.BILINEAR) if scan.degrees else small
    plane = _plane(turned, scan.plane)
    places = []
    for left, top, side in _candidates(plane, scan.min_window, scan.max_window):
        x, y = _rotated_back(left + side / 2, top + side / 2, turned.size, scan.degrees)
        if margin <= x < turned.width - margin and margin <= y < turned.height - margin:
            middle = (x - margin) / shrink, (y - margin) / shrink
            places.append(Candidate(*middle, side / shrink, math.radians(scan.degrees), 0.0))
    return places


def witness(level: Image.Image, window: Window) -> Witness:
    """Of the window of a level square, in the plane that supports it more."""
    skin, saturation = skin_share(level, window)
    luminance, _ = _evidence(Image.fromarray(_plane(level, "luminance")), window)
    if luminance < ENOUGH_SUPPORT and skin >= SKIN_SHARE_OF_WARM_FACES:
        warm, _ = _evidence(Image.fromarray(_plane(level, "warmth")), window)
        if warm > luminance:
            return Witness(warm, "warmth", skin, saturation)
    return Witness(luminance, "luminance", skin, saturation)


def settled(level: Image.Image, window: Window, plane: Literal["luminance", "warmth"]) -> Window | None:
    """The window as the cascade frames the face; None where no window passes there."""
    source = Image.fromarray(_plane(level, plane))
    support, framed = _support(_patch(source, window), window)
    if support < MIN_SUPPORT:
        return None
    for _ in range(SETTLING_ROUNDS - 1):
        _, framed = _support(_patch(source, framed), framed)
    return framed


def _plane(picture: Image.Image, plane: Literal["luminance", "warmth"]) -> Gray:
    return np.asarray(picture.convert("L") if plane == "luminance" else warmth(np.asarray(picture)))


def _shrunk(photo: Image.Image, side: int) -> tuple[Image.Image, float, int]:
    """The photo at most `side` pixels large, with a margin: a face that fills the photo needs one. Factor, margin."""
    shrink = min(1.0, side / max(photo.size))
    size = max(1, round(photo.width * shrink)), max(1, round(photo.height * shrink))
    margin = max(size) // 8
    small = np.asarray(photo.resize(size, Image.Resampling.BOX if shrink < 1 else Image.Resampling.NEAREST))
    padded = np.pad(small, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    return Image.fromarray(padded), shrink, margin


def warmth(rgb: Pixels) -> Image.Image:
    """The warmth plane: how much red exceeds green and blue. Skin of every tone is bright, grey and green are black."""
    red, green, blue = (rgb[..., channel].astype(np.float32) for channel in range(3))
    warm = np.minimum(red - blue, 1.5 * (red - green))
    return Image.fromarray(np.clip(warm * 2, 0, 255).astype(np.uint8))


def skin_share(picture: Image.Image, window: Window) -> tuple[float, float]:
    """The share of a box with a hue of skin, light or dark, and the mean saturation of the box."""
    left, top, side = window
    box = max(0.0, left), max(0.0, top), min(picture.width, left + side), min(picture.height, top + side)
    patch = np.asarray(picture.resize((24, 24), Image.Resampling.BILINEAR, box=box), dtype=np.float32)
    red, green, blue = patch[..., 0], patch[..., 1], patch[..., 2]
    skin = (red > 1.03 * green) & (green > 0.9 * blue) & (blue > 0.2 * red)
    saturation = (patch.max(axis=2) - patch.min(axis=2)) / np.maximum(patch.max(axis=2), 1)
    return float(skin.mean()), float(saturation.mean())


def _rotated_back(x: float, y: float, size: tuple[int, int], degrees: int) -> tuple[float, float]:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = x - size[0] / 2, y - size[1] / 2
    return x * cosine - y * sine + size[0] / 2, x * sine + y * cosine + size[1] / 2


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
    """Every window that passes the cascade, unmerged, in an order independent of its threads."""
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
    """Groups of neighbouring windows as (count, mean window); the largest group first."""
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


def _candidates(gray: Gray, min_window: int, max_window: int) -> list[Window]:
    sides = (min_window, min(max_window, *gray.shape))
    groups = _groups(_windows(gray, COARSE_FACTOR, COARSE_STEP, sides)) if min(gray.shape) > min_window else []
    return [(float(left), float(top), float(side)) for _, (left, top, side) in groups[:MAX_CANDIDATES]]


def _patch(plane: Image.Image, window: Window) -> Image.Image:
    left, top, side = window
    box = (left - side / 2, top - side / 2, left + 1.5 * side, top + 1.5 * side)
    return plane.transform((PATCH, PATCH), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)


def _evidence(plane: Image.Image, candidate: Window) -> tuple[float, Window]:
    """Rescan of one candidate: its support, scaled down at low contrast, and the corrected window."""
    patch = _patch(plane, candidate)
    support, corrected = _support(patch, candidate)
    if support < MIN_SUPPORT:
        return 0.0, candidate
    mirrored, _ = _support(patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT), candidate)
    coarse = patch.resize((BLURRED_PATCH, BLURRED_PATCH), Image.Resampling.BOX)
    blurred, _ = _support(coarse.resize((PATCH, PATCH), Image.Resampling.BILINEAR), candidate)
    middle = np.asarray(patch)[PATCH // 4 : -PATCH // 4, PATCH // 4 : -PATCH // 4]
    return (support + mirrored + blurred) / 3 * min(1.0, float(middle.std()) / FULL_CONTRAST), corrected


def _settled(plane: Image.Image, window: Window) -> Window:
    """The window after repeated dense scans: one face gets one box, independent of where the first scan hit it."""
    for _ in range(SETTLING_ROUNDS):
        _, window = _support(_patch(plane, window), window)
    return window


def _support(patch: Image.Image, window: Window) -> tuple[int, Window]:
    """Number of windows that pass around the patch's centre, and their mean in the plane; (0, window) if none."""
    left, top, side = window
    unit = 2 * side / PATCH
    for count, mean in _groups(_windows(np.asarray(patch), 1.05, 1.0, (PATCH * 3 // 8, PATCH * 3 // 4))):
        if np.abs(mean[:2] + mean[2] / 2 - PATCH / 2).max() < PATCH / 7:
            x, y, corrected = (float(value) * unit for value in mean)
            return count, (left - side / 2 + x, top - side / 2 + y, corrected)
    return 0, window


def face_score(evidence: float) -> float:
    """0..1; 0.5 where a patch is equally likely to be a face or not."""
    return 1 / (1 + math.exp((EVEN_SUPPORT - evidence) / SUPPORT_SPREAD))

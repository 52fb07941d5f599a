"""scikit-image's LBP cascade for frontal faces (Liao et al. 2007): it proposes places, and counts windows at one.

Windows on texture pass the cascade as well as faces. On a face the neighbouring windows pass too, even when the picture
is mirrored or blurred. So every candidate is cropped, scaled to one size and scanned densely three times; the support,
the mean number of passing windows, does not depend on the size of face or photo. Photos without a face reach about 10,
faces 20 to 90.

Two planes are searched. In luminance, eyes, brows and mouth are dark on light. On dark skin, mostly in drawings, the
white of the eyes inverts that; in the warmth plane (red over green and blue) skin is bright, and eyes, brows and hair
are dark, for every skin colour.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage.data import lbp_frontal_face_cascade_filename
from skimage.feature import Cascade

from deployments.face.detection import Candidate, Plane
from deployments.face.upright import Pyramid
from deployments.types import Pixels

WINDOW = 24  # pixels; the cascade's own
PATCH = 96  # pixels; candidates are rescanned at this size, the box being half of it
BLURRED_PATCH = 40  # pixels; the patch is shrunk to this and scaled back
COARSE_FACTOR, COARSE_STEP = 1.12, 1.5  # of the first scan, where one window on a face is enough
MAX_CANDIDATES = 12  # a scan

SETTLING_ROUNDS = 3
MIN_SUPPORT = 5  # of the first dense scan; with less the others are skipped
FULL_CONTRAST = 20.0  # standard deviation of the patch, of 255; support on a flatter patch counts less
SKIN_SHARE_OF_WARM_FACES = 0.5  # minimum of the box for faces found in the warmth plane
SKIN_SHARE = 0.3  # with less, a coloured patch needs more support; a grey one does not
UNLIKELY_HUE = 0.4  # weight of its support then
GREY_SATURATION = 0.12  # mean of (max - min) / max of the channels

LEVEL_SIDE = 216  # pixels of a level square
LEVEL_WINDOW = (72.0, 72.0, 72.0)  # of its place

Gray = npt.NDArray[np.uint8]
Window = tuple[float, float, float]  # left, top, side
Windows = npt.NDArray[np.float64]  # (n, 3): left, top, side


@dataclass(frozen=True, slots=True)
class Scan:
    """One search of one plane: the photo shrunk to `side` pixels, rotated by `degrees`, windows of these sizes."""

    plane: Plane
    side: int
    degrees: int = 0
    min_window: int = WINDOW
    max_window: int = 1024


def proposals(photo: Pyramid, scan: Scan) -> list[Candidate]:
    """Where windows pass on the photo as the scan turns it, and how many; nothing is checked yet."""
    small, shrink = photo.shrunk(scan.side)
    padded, margin = _with_margin(small)
    turned = padded.rotate(scan.degrees, Image.Resampling.BILINEAR) if scan.degrees else padded
    plane = _plane(turned, scan.plane)
    places = []
    for count, (left, top, side) in _candidates(plane, scan.min_window, scan.max_window):
        x, y = _rotated_back(left + side / 2, top + side / 2, turned.size, scan.degrees)
        if margin <= x < turned.width - margin and margin <= y < turned.height - margin:
            middle = (x - margin) / shrink, (y - margin) / shrink
            turn = math.radians(scan.degrees)
            places.append(Candidate(*middle, side / shrink, turn, windows=count, plane=scan.plane))
    return places


class LevelSquare:
    """A square of LEVEL_SIDE pixels about a place, turned level: the place's own window is a third of it."""

    def __init__(self, picture: Image.Image) -> None:
        self._picture = picture

    def support(self, plane: Plane) -> int:
        """How many windows pass at the place, by one dense scan."""
        return _support(_patch(self._of(plane), LEVEL_WINDOW), LEVEL_WINDOW)[0]

    def evidence(self, plane: Plane) -> float:
        """The mean support of three scans; less where there is little contrast, or a colour that skin seldom has."""
        evidence, window = _evidence(self._of(plane), LEVEL_WINDOW)
        skin, saturation = skin_share(self._picture, window)
        if plane == "warmth" and skin < SKIN_SHARE_OF_WARM_FACES:
            return 0.0
        return evidence if skin >= SKIN_SHARE or saturation < GREY_SATURATION else evidence * UNLIKELY_HUE

    def framed(self, plane: Plane) -> Window | None:
        """The window as the cascade frames the face, in pixels of the square; None where no window passes."""
        support, window = _support(_patch(self._of(plane), LEVEL_WINDOW), LEVEL_WINDOW)
        if support < MIN_SUPPORT:
            return None
        for _ in range(SETTLING_ROUNDS - 1):
            _, window = _support(_patch(self._of(plane), window), window)
        return window

    def _of(self, plane: Plane) -> Image.Image:
        return Image.fromarray(_plane(self._picture, plane))


def _plane(picture: Image.Image, plane: Plane) -> Gray:
    return np.asarray(picture.convert("L") if plane == "luminance" else warmth(np.asarray(picture)))


def _with_margin(picture: Image.Image) -> tuple[Image.Image, int]:
    """The picture and its margin in pixels: a face that fills the photo needs one."""
    margin = max(picture.size) // 8
    padded = np.pad(np.asarray(picture), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    return Image.fromarray(padded), margin


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


def _candidates(gray: Gray, min_window: int, max_window: int) -> list[tuple[int, Window]]:
    sides = (min_window, min(max_window, *gray.shape))
    groups = _groups(_windows(gray, COARSE_FACTOR, COARSE_STEP, sides)) if min(gray.shape) > min_window else []
    return [(count, (float(left), float(top), float(side))) for count, (left, top, side) in groups[:MAX_CANDIDATES]]


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


def _support(patch: Image.Image, window: Window) -> tuple[int, Window]:
    """Number of windows that pass around the patch's centre, and their mean in the plane; (0, window) if none."""
    left, top, side = window
    unit = 2 * side / PATCH
    for count, mean in _groups(_windows(np.asarray(patch), 1.05, 1.0, (PATCH * 3 // 8, PATCH * 3 // 4))):
        if np.abs(mean[:2] + mean[2] / 2 - PATCH / 2).max() < PATCH / 7:
            x, y, corrected = (float(value) * unit for value in mean)
            return count, (left - side / 2 + x, top - side / 2 + y, corrected)
    return 0, window

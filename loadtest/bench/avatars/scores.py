"""Scores and their bars, computed from arrays alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, label
from skimage.color import deltaE_ciede2000, rgb2lab

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Score:
    """One line of the table. A `bar` of None: for information only."""

    name: str
    value: float
    bar: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """None without a bar. A value equal to its bar meets it; NaN never does."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    @property
    def limit(self) -> str:
        """The bar in words, such as `at least 0.95`; empty without one."""
        return "" if self.bar is None else f"at {'most' if self.at_most else 'least'} {self.bar:g}"


def share(right: Sequence[bool] | Mask) -> float:
    """From 0 to 1; NaN where there is nothing to count."""
    return float(np.mean(right)) if len(right) else float("nan")


def lab_of(colours: Sequence[tuple[int, int, int]]) -> Array:
    """(n, 3) bytes of sRGB -> CIE Lab."""
    return np.asarray(rgb2lab(np.array([colours], dtype=np.float64) / 255)[0], dtype=np.float64)


def differences(first: Array, second: Array) -> Array:
    """CIEDE2000 of each pair: (n, 3) and (n, 3) or (3,) -> (n,)."""
    return np.asarray(deltaE_ciede2000(first, np.broadcast_to(second, first.shape)), dtype=np.float64)


def auc(matching: Array, others: Array) -> float:
    """How often a matching pair scores above another one; a tie counts half."""
    ordered = np.sort(others)
    below, not_above = np.searchsorted(ordered, matching, "left"), np.searchsorted(ordered, matching, "right")
    return float((below + not_above).mean() / 2 / len(others))


def majority_share(batch: Sequence[str]) -> float:
    """The share of a batch's images that have the most frequent value."""
    return Counter(batch).most_common(1)[0][1] / len(batch)


def rank_of_own(own: Array, other: Array, seen: Array) -> int:
    """How many of the others (n, traits) are closer to the seen traits (traits,) than the own reference (traits,)."""
    return int((np.linalg.norm(other - seen, axis=1) <= np.linalg.norm(own - seen)).sum())


def flat_figure(picture: Picture, distance: float) -> Mask:
    """The figure in front of a flat background: the largest piece that differs by more than `distance` (CIEDE2000).

    The background's colour is the median of the upper corners. Holes are filled, specks dropped.
    """
    corners = np.concatenate([picture[:12, :12].reshape(-1, 3), picture[:12, -12:].reshape(-1, 3)])
    background = np.median(corners, axis=0)[None, None] / 255
    apart = deltaE_ciede2000(rgb2lab(picture), rgb2lab(background)) > distance
    pieces, count = label(binary_fill_holes(apart))
    if count == 0:
        return np.zeros(apart.shape, dtype=np.bool_)
    largest = 1 + np.bincount(pieces.ravel())[1:].argmax()
    return np.asarray(pieces == largest, dtype=np.bool_)


def intersection_over_union(first: Mask, second: Mask) -> float:
    """Of two masks of one shape, from 0 to 1; 0 where both are empty."""
    return float((first & second).sum() / max(1, (first | second).sum()))


JUDGE = Path(__file__).with_name("judge.safetensors")

"""Hair styles: how long hair is where, which way it is combed, and how far it stands off the head."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from deployments.embedded.training.renderer.portrait import HairStyle
from loadtest.bench.reading.surfels import Numbers, single

Comb = Callable[[Numbers, Numbers, float], Numbers]


@dataclass(frozen=True, slots=True)
class Style:
    """`top` and `side` are lengths of hair; `lift` is how far the outer layer stands off the head."""

    top: float
    side: float
    comb: Comb
    lift: float = 0.08
    gravity: float = 1.0
    curl: tuple[float, float] = (0.0, 0.0)  # radius, and turns a unit of length
    guides: int = 380
    strands: int = 9  # of a lock
    lock: float = 0.045  # radius
    fringe: float = 0.0  # length of hair that falls into the forehead
    cut: float = -9.0  # no hair is below this height
    ragged: float = 0.15  # of the length
    hold: float = 0.0  # 1: what grows off the head is combed onto it
    curtain: float | None = None  # half width of the face that hair leaves free


def away(places: Numbers, normals: Numbers, parting: float) -> Numbers:
    """Down both sides of a parting."""
    side = np.where(places[:, 0] > parting * 0.42, 1.0, -1.0)
    return single(np.stack([side, -0.25 + 0 * side, 0.1 - 0.35 * (places[:, 2] < 0)], axis=1))


def aside(places: Numbers, normals: Numbers, parting: float) -> Numbers:
    """Across the head, from the parting's side to the other; the sides hang."""
    over = -1.0 if parting > 0 else 1.0
    top = (places[:, 1] > 0.5) & (places[:, 0] * over > -0.42)
    return single(np.where(top[:, None], single([over, 0.25, 0.45]), away(places, normals, -over)))


def backwards(places: Numbers, normals: Numbers, parting: float) -> Numbers:
    """Off the forehead."""
    return single(np.stack([places[:, 0] * 0.2, 0.45 + 0 * places[:, 0], -1 + 0 * places[:, 0]], axis=1))


def forwards(places: Numbers, normals: Numbers, parting: float) -> Numbers:
    """Into the forehead; the sides hang."""
    top = places[:, 1] > 0.45
    ahead = np.stack([places[:, 0] * 0.35, -0.1 + 0 * places[:, 0], 1 + 0 * places[:, 0]], axis=1)
    return single(np.where(top[:, None], ahead, away(places, normals, 0.0)))


def upwards(places: Numbers, normals: Numbers, parting: float) -> Numbers:
    """On end, a little backwards."""
    return single(normals + np.array([0.0, 0.8, -0.1]))


def quiffed(places: Numbers, normals: Numbers, parting: float) -> Numbers:
    """Over the forehead on end, the rest backwards; the sides hang."""
    front = (places[:, 1] > 0.5) & (places[:, 2] > 0.1)
    top = np.where(front[:, None], single([0, 1.0, 0.25]), backwards(places, normals, parting))
    return single(np.where((places[:, 1] > 0.5)[:, None], top, away(places, normals, 0.0)))


def outwards(places: Numbers, normals: Numbers, parting: float) -> Numbers:
    """On end."""
    return normals


CROPPED: dict[str, Any] = {"guides": 3200, "strands": 1, "gravity": 0.0, "ragged": 0.4}
STYLES: dict[HairStyle, Style] = {
    "buzz": Style(0.03, 0.025, outwards, lift=0.0, **CROPPED),
    "crew cut": Style(0.15, 0.04, upwards, lift=0.0, **CROPPED),
    "receding": Style(0.28, 0.12, backwards, lift=0.04, lock=0.03, hold=0.9),
    "undercut": Style(0.85, 0.02, aside, lift=0.17, gravity=0.4, hold=0.8),
    "parted": Style(0.62, 0.2, aside, lift=0.09, gravity=0.5, hold=0.8),
    "quiff": Style(0.36, 0.09, quiffed, lift=0.05, gravity=0.3),
    "swept": Style(1.1, 0.35, backwards, lift=0.12, gravity=0.2, hold=0.95),
    "fringe": Style(0.5, 0.24, forwards, lift=0.08, fringe=0.52, lock=0.06, hold=0.6),
    "pixie": Style(0.62, 0.42, aside, lift=0.10, fringe=0.42, hold=0.7),
    "curly": Style(0.42, 0.3, outwards, lift=0.1, gravity=0.9, curl=(0.055, 4.5), guides=300, strands=12, lock=0.03),
    "short afro": Style(0.2, 0.16, outwards, gravity=0.0, curl=(0.03, 10), guides=900, strands=6, lock=0.04),
    "afro": Style(0.55, 0.52, outwards, gravity=0.0, curl=(0.06, 9), guides=1000, strands=6, lock=0.06, ragged=0.35),
    "bun": Style(1.3, 1.3, backwards, lift=0.04, gravity=0.0, lock=0.03, hold=1.0),
    "ponytail": Style(1.3, 1.3, backwards, lift=0.04, gravity=0.0, lock=0.03, hold=1.0),
    "bob": Style(1.7, 1.15, away, lift=0.14, cut=-0.82, ragged=0.03, hold=0.4, curtain=0.62),
    "side part": Style(2.4, 1.9, away, lift=0.13, hold=0.4, curtain=0.56),
    "long": Style(2.4, 2.0, away, lift=0.09, hold=0.5, curtain=0.58),
    "wavy": Style(2.4, 2.0, away, lift=0.16, curl=(0.06, 1.6), guides=200, strands=15, lock=0.07, hold=0.4,
                  curtain=0.6),
    "long curly": Style(2.2, 1.9, away, lift=0.22, curl=(0.075, 3.6), guides=220, strands=14, lock=0.035, hold=0.3,
                        curtain=0.66),
    "braids": Style(1.0, 0.7, away, lift=0.03, lock=0.03, cut=-0.3, hold=1.0, curtain=0.64),
    "locs": Style(2.0, 1.6, away, lift=0.12, guides=120, ragged=0.3, hold=0.5, curtain=0.62),
}  # fmt: skip
SIDE, MIDDLE = 0.6, 0.0
PARTING: dict[HairStyle, float] = {
    "undercut": SIDE, "parted": SIDE, "pixie": SIDE, "bob": SIDE, "side part": SIDE, "locs": SIDE,
    "long": MIDDLE, "wavy": MIDDLE, "long curly": MIDDLE, "braids": MIDDLE,
}  # fmt: skip

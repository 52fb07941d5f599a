"""Hair as many thin curves: guides grown on the skull, tufts about them, and their picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from deployments.embedded.training.renderer.lifelike.grid import MIDDLE, SIDE, UNIT, Field
from deployments.embedded.training.renderer.lifelike.surface import SKULL_DEEP, SKULL_HIGH, SKULL_Y

Curves = NDArray[np.float32]  # (strands, points, 3): right, down, camera
CENTRE = np.array([0.0, SKULL_Y, 0.0], dtype=np.float32)
RADII = np.array([1.02, SKULL_HIGH, SKULL_DEEP], dtype=np.float32)

HIDDEN = 0.12  # how far strands may lie under the surface of a head and still be seen


def normalised(vectors: Curves) -> Curves:
    """Each of length 1 along the last axis."""
    return np.asarray(vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-6), dtype=np.float32)


def outwards(points: Curves) -> Curves:
    """The skull's normal near points."""
    return normalised((points - CENTRE) / RADII**2)


@dataclass(frozen=True)
class Growth:
    """How guides run: `down` is gravity's pull, `bend` how fast a strand gives in to it, `lift` how high it lies."""

    length: Curves  # (guides,)
    start: Curves  # (guides, 3) directions
    down: float
    bend: float
    lift: float
    points: int = 16
    comb: Curves | None = None  # (guides, 3): where hair is drawn to at first, beside gravity
    parted: Curves | None = None  # (guides,) -1 or 1: the side of the face that hair must fall on
    reach: float = 1.12  # how far from the middle it hangs
    hold: float = 0.0  # how much of what stands off the skull lies down at each step


def grown(roots: Curves, growth: Growth) -> Curves:
    """(guides, points, 3): each step leans to gravity and comb, and stays off the skull."""
    place: Curves = roots.copy()
    way = normalised(growth.start)
    gravity = np.array([0, growth.down, 0], dtype=np.float32)
    comb = np.zeros_like(roots) if growth.comb is None else growth.comb
    line = [place]
    stride = np.asarray(growth.length / (growth.points - 1), dtype=np.float32)[:, None]
    for number in range(growth.points - 1):
        way = normalised(way + growth.bend * (gravity + comb + kept_aside(place, growth)))
        comb = comb * 0.85
        place = place + way * stride
        high = 1 + growth.lift * min(1.0, (number + 1) / 4)
        from_centre = (place - CENTRE) / RADII
        radius = np.linalg.norm(from_centre, axis=1, keepdims=True)
        pushed = CENTRE + from_centre / radius * high * RADII
        if growth.hold:
            lain = growth.hold * ((radius > high) & (place[:, 1:2] < -0.25))
            place = place + lain * (pushed - place)
        deep = (radius < high) & (place[:, 1:2] < 0.9)
        place = np.where(deep, pushed, place)
        out = outwards(place)
        way = np.where(deep, way - out * np.minimum((way * out).sum(1, keepdims=True), 0), way)
        line.append(place)
    return np.stack(line, 1).astype(np.float32)


def kept_aside(place: Curves, growth: Growth) -> Curves:
    """(guides, 3): out of the face to the side that the parting gives, and not beyond the reach."""
    force = np.zeros_like(place)
    if growth.parted is not None:
        aside = place[:, 0] * growth.parted
        before = np.clip(place[:, 2] + 0.35, 0, 1)
        force[:, 0] = growth.parted * (
            4.0 * before * np.clip(0.98 - aside, 0, 1) - 2.5 * np.clip(aside - growth.reach, 0, 2)
        )
        force[:, 2] = -1.2 * before * np.clip(0.9 - aside, 0, 1)
    return force


@dataclass(frozen=True)
class Tuft:
    """Strands about each guide: `wide` apart at the root, `gather` of that lost at the tip, and their waves."""

    count: int
    wide: float
    gather: float = 0.6
    wave: float = 0.0  # amplitude
    turns: float = 0.0  # per unit of length
    coil: float = 1.0  # 1: curls in depth too; 0: a flat wave
    frizz: float = 0.01
    shared: float = 0.7  # of a wave's phase, between the strands of one tuft


def tufted(guides: Curves, tuft: Tuft, length: Curves, rng: np.random.Generator) -> Curves:
    """(guides * count, points, 3)."""
    number, points = guides.shape[:2]
    shape = number, tuft.count, 1, 3
    along = np.linspace(0, 1, points, dtype=np.float32)[None, None, :, None]
    offset = rng.normal(0, tuft.wide, shape).astype(np.float32) * (1 - tuft.gather * along)
    cut = rng.uniform(0.84, 1.0, (number, tuft.count, 1, 1)).astype(np.float32)
    curves = guides[:, None]
    curves = curves[:, :, :1] + (curves - curves[:, :, :1]) * cut + offset
    if tuft.wave:
        own, among = rng.uniform(0, 6.28, (number, 1, 1, 1)), rng.uniform(-3.1, 3.1, (number, tuft.count, 1, 1))
        pace = rng.uniform(0.8, 1.25, (number, 1, 1, 1))
        phase = own + among * (1 - tuft.shared) + along * length[:, None, None, None] * tuft.turns * pace * 6.28
        amount = tuft.wave * np.minimum(1, along * 5)
        turn = np.concatenate([np.cos(phase), 0.5 * np.sin(phase) * tuft.coil, np.sin(phase) * tuft.coil], -1)
        curves = curves + (turn * amount).astype(np.float32)
    if tuft.frizz:
        walk = rng.normal(0, tuft.frizz, (number, tuft.count, points, 3)).astype(np.float32).cumsum(2)
        curves = curves + walk
    return np.asarray(curves.reshape(-1, points, 3), dtype=np.float32)


@dataclass
class Hair:
    """What strands look like from the front, per pixel."""

    cover: Field
    shade: Field  # mean brightness of the strands
    way: Field  # (SIDE, SIDE, 3): their mean direction
    z: Field


def pixels_along(curves: Curves, apart: float = 1.15) -> tuple[Curves, Curves, NDArray[np.int64]]:
    """Places at most `apart` pixels from each other, their directions, and the strand of each."""
    legs = np.linalg.norm(np.diff(curves[..., :2], axis=1), axis=2).sum(1) * UNIT
    count = max(2, int(np.ceil(np.quantile(legs, 0.9) / apart)))
    points = curves.shape[1]
    at = np.linspace(0, points - 1.001, count)
    low, share = at.astype(int), (at % 1)[None, :, None].astype(np.float32)
    first, second = curves[:, low], curves[:, low + 1]
    places = first + (second - first) * share
    ways = normalised(second - first)
    owner = np.repeat(np.arange(len(curves)), count)
    return places.reshape(-1, 3), ways.reshape(-1, 3), owner


def pictured(curves: Curves, tone: Curves, wide: float, head: Field | None = None) -> Hair:
    """Strands of relative brightness `tone` (n,), `wide` pixels each; the nearer ones, and `head`, hide the rest."""
    places, ways, owner = pixels_along(curves)
    column = np.floor(places[:, 0] * UNIT + MIDDLE[0]).astype(np.int64)
    row = np.floor(places[:, 1] * UNIT + MIDDLE[1]).astype(np.int64)
    seen = (column >= 0) & (column < SIDE) & (row >= 0) & (row < SIDE)
    if head is not None:
        seen[seen] &= places[seen, 2] > head[row[seen], column[seen]] - HIDDEN
    cell, z = (row * SIDE + column)[seen], places[seen, 2]
    weight = np.exp(3.0 * np.clip(z, -1.5, 1.8)).astype(np.float32)
    total = np.bincount(cell, weight, SIDE * SIDE)
    count = np.bincount(cell, minlength=SIDE * SIDE)

    def mean(values: Curves) -> Field:
        return np.asarray(np.bincount(cell, weight * values, SIDE * SIDE) / (total + 1e-9), dtype=np.float32)

    way = ways[seen]
    turned = way * np.sign(way[:, 1:2] + 1e-6)
    fields = [mean(tone[owner[seen]]), mean(z), *(mean(turned[:, axis]) for axis in range(3))]
    blur = 0.45 * wide
    cover = gaussian_filter(count.reshape(SIDE, SIDE).astype(np.float32), blur)
    known = gaussian_filter((count > 0).reshape(SIDE, SIDE).astype(np.float32), blur) + 1e-4
    level = gaussian_filter(fields[1].reshape(SIDE, SIDE) * (count > 0).reshape(SIDE, SIDE), 2.5)
    level = level / (gaussian_filter((count > 0).reshape(SIDE, SIDE).astype(np.float32), 2.5) + 1e-3)
    shade, deep, *ways3 = (
        gaussian_filter(field.reshape(SIDE, SIDE) * (count > 0).reshape(SIDE, SIDE), blur) / known for field in fields
    )
    return Hair(1 - np.exp(-1.25 * wide * cover), shade, np.stack(ways3, -1), 0.8 * level + 0.2 * deep)

"""The search for faces at any angle: many looks propose, and each proposal is judged by all evidence there is of it.

The finder (`finder.py`) and scikit-image's cascade (`cascade.py`) propose places. Each place is turned level and seen
by three witnesses: the finder's heat, the verifier, and how many windows of the cascade pass there. Finder and verifier
learnt from drawings, the cascade from photos: what deceives one seldom deceives the others. A look that finds
something uncertain does not end the search, and what stays uncertain is no face.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from deployments.face.cascade import Scan, Witness, proposals, settled, witness
from deployments.face.detection import Candidate, Detection
from deployments.face.finder import FaceFinder, SecondLook, levelled
from deployments.face.upright import level_square, square_about, turned_points, wrapped
from deployments.types import Pixels

SEEN = 1024  # pixels of the longer side of what all looks see
FINDER_SIDES = (320, 640)  # pixels that the finder's photo is shrunk to
HOPELESS = -4.0  # the verifier's logit below which the cascade is not asked
LOWEST_HEAT, MOST_FOUND = 0.08, 8  # of the finder's proposals
JUDGED = 6  # proposals of a pass, the verifier's best ones, that the cascade is asked about
LEVEL, REACH = 216, 3.0  # pixels of the square that the cascade sees, and its side over the face's
NEARLY_LEVEL = math.radians(8)  # a face is turned no more than that is left as it is
CERTAIN, LIKELY, POSSIBLE = 0.95, 0.5, 0.2  # scores: ends the search; is a face; is spoken of
TURNS = tuple(range(30, 360, 30))  # degrees of the coarse scans of turned photos

PASSES: tuple[tuple[Scan, ...], ...] = (
    (Scan("luminance", 256), Scan("warmth", 256)),
    (Scan("luminance", 576, max_window=72),),
    tuple(Scan("luminance", 144, degrees) for degrees in TURNS),
)
LARGE_ONLY = Scan("luminance", 256, min_window=48)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A place, what each witness says of it, and the score of all of it together."""

    face: Candidate
    look: SecondLook
    windows: Witness
    score: float
    settled: Candidate | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The faces of a photo, the largest first; `uncertain`: there is none, but something that may be one."""

    faces: list[Detection]
    uncertain: bool = False


class FaceSearch:
    """Finds faces with a finder's networks and the cascade."""

    def __init__(self, finder: FaceFinder) -> None:
        self._finder = finder

    def find_largest(self, pixels: Pixels) -> Found:
        """As `find`, but only large upright faces if one is certain: the other looks take longer."""
        photo = shrunk(pixels)
        large = self._judge(photo, proposals(photo, LARGE_ONLY))
        certain = [one for one in large if one.score >= CERTAIN]
        return found_of(photo, certain or self.judged(photo), max(pixels.shape[:2]) / max(photo.size))

    def find(self, pixels: Pixels) -> Found:
        """The faces of an (h, w, 3) RGB picture, largest first; small or turned ones only if there are no others."""
        photo = shrunk(pixels)
        return found_of(photo, self.judged(photo), max(pixels.shape[:2]) / max(photo.size))

    def judged(self, photo: Image.Image) -> list[Judgement]:
        """All places that were judged until one was certain, the best first, one for each face."""
        found: list[Judgement] = []
        for number, scans in enumerate(PASSES):
            places = [place for scan in scans for place in proposals(photo, scan)]
            if number == 0:
                for side in FINDER_SIDES:
                    places += self._finder.candidates(photo, side, LOWEST_HEAT, MOST_FOUND)
            found = distinct([*found, *self._judge(photo, places)])
            if found and found[0].score >= CERTAIN:
                break
        return found

    def _judge(self, photo: Image.Image, places: Sequence[Candidate]) -> list[Judgement]:
        looks = self._finder.second_looks(photo, places)
        best = sorted(zip(places, looks, strict=True), key=lambda both: -both[1].logit)
        apart: list[tuple[Candidate, SecondLook]] = []
        for place, look in best:
            if look.logit > HOPELESS and not any(same_place(look.face, other.face) for _, other in apart):
                apart.append((place, look))
        return distinct([self._judge_one(photo, place, look) for place, look in apart[:JUDGED]])

    def _judge_one(self, photo: Image.Image, place: Candidate, first: SecondLook) -> Judgement:
        face = levelled(first)
        look = self._finder.upright_look(photo, face)
        level = level_square(photo, face.middle, face.side * REACH, face.turn, LEVEL)
        windows = witness(level, (LEVEL / REACH, LEVEL / REACH, LEVEL / REACH))
        return Judgement(face, look, windows, score(place.score, first.logit, look.logit, windows))


def shrunk(pixels: Pixels) -> Image.Image:
    """The photo at no more than SEEN pixels a side: no look needs more of it."""
    photo = Image.fromarray(pixels)
    shrink = min(1.0, SEEN / max(photo.size))
    size = max(1, round(photo.width * shrink)), max(1, round(photo.height * shrink))
    return photo if size == photo.size else photo.resize(size, Image.Resampling.BOX)


def found_of(photo: Image.Image, judged: Sequence[Judgement], scale: float) -> Found:
    """Those that are likely, in pixels `scale` times as small; next to a certain face, others are more likely none."""
    certain = [one for one in judged if one.score >= CERTAIN]
    likely = certain or [one for one in judged if one.score >= LIKELY]
    faces = sorted((scaled(detection(photo, one), scale) for one in likely), key=lambda face: -face.side)
    return Found(faces, not faces and any(one.score >= POSSIBLE for one in judged))


def scaled(face: Detection, scale: float) -> Detection:
    """In the pixels of a photo that is `scale` times as large."""
    x0, y0, x1, y1 = (value * scale for value in face.box)
    return replace(face, box=(x0, y0, x1, y1), landmarks=None if face.landmarks is None else face.landmarks * scale)


def same_place(one: Candidate, other: Candidate) -> bool:
    """Whether the middle of one lies within the other, and neither is much larger."""
    return other.contains(one.x, one.y) and 0.6 < one.side / other.side < 1.67


def distinct(found: Sequence[Judgement]) -> list[Judgement]:
    """The best of each group of judgements whose middles lie within one another, best first."""
    kept: list[Judgement] = []
    for one in sorted(found, key=lambda one: -one.score):
        if not any(other.face.contains(*one.face.middle) or one.face.contains(*other.face.middle) for other in kept):
            kept.append(one)
    return kept


def score(heat: float, first: float, second: float, windows: Witness) -> float:
    """0..1 of all evidence: a logistic regression, fitted to drawn scenes."""
    evidence = 0.6 * second + 0.2 * first + 0.25 * (windows.support - 10.0) + 2.0 * heat - 1.0
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, evidence))))


def detection(photo: Image.Image, one: Judgement) -> Detection:
    """The face as the cascade's windows frame it, where they see it, and else as the verifier does."""
    turn = one.look.face.turn if abs(wrapped(one.look.face.turn)) > NEARLY_LEVEL else 0.0
    face = replace(one.look.face, turn=turn)
    level = level_square(photo, face.middle, face.side * REACH, turn, LEVEL)
    framed = settled(level, (LEVEL / REACH,) * 3, one.windows.plane)
    if framed is not None:
        left, top, side = framed
        middle = turned_points(
            np.float32([[left + side / 2, top + side / 2]]), face.middle, face.side * REACH, turn, LEVEL
        )
        face = replace(face, x=float(middle[0, 0]), y=float(middle[0, 1]), side=side * face.side * REACH / LEVEL)
    return Detection(square_about(face.middle, face.side), one.score, one.look.landmarks, wrapped(turn))

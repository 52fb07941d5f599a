"""The search for faces at any angle: many looks propose, and each proposal is judged by all evidence there is of it.

The finder (`finder.py`) and scikit-image's cascade (`cascade.py`) propose places. Each place is turned level as the
verifier sees it, and then two witnesses count: the verifier, and how many windows of the cascade pass. Finder and
verifier learnt from drawings, the cascade from photos: what deceives one seldom deceives the others. A look
that finds something uncertain does not end the search, and what stays uncertain is no face.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from deployments.face.cascade import LEVEL_SIDE, LEVEL_WINDOW, LevelSquare, Scan, proposals
from deployments.face.detection import Candidate, Detection
from deployments.face.finder import FaceFinder, SecondLook
from deployments.face.upright import Pyramid, square_about, turned_points
from deployments.types import Pixels

SEEN = 1024  # pixels of the longer side of what all looks see
FINDER_SIDES = (320, 640)  # pixels that the finder's photo is shrunk to, in turn
LOWEST_HEAT, MOST_FOUND = 0.12, 8  # of the finder's proposals
REACH = LEVEL_SIDE / LEVEL_WINDOW[2]  # of a level square, over the face's side
LOOKED_AT, JUDGED = 16, 5  # proposals of a pass that the verifier sees, and the best of those, which the cascade sees
HOPELESS = -3.0  # the verifier's logit below which the cascade is not asked
FEW_WINDOWS = 10.0  # in luminance: warmth is asked too
NEARLY_LEVEL = math.radians(8)  # a face that is turned no more than that is left as it is
LARGE = 0.2  # of the photo's longer side
CERTAIN, LIKELY, POSSIBLE = 0.95, 0.5, 0.2  # scores: ends the search; is a face; is spoken of
TILTS, QUARTERS = (24, -24, 48, -48), (90, 180, 270)  # degrees of the coarse scans of turned photos

SCANS: tuple[tuple[Scan, ...], ...] = (
    (Scan("luminance", 256), Scan("warmth", 192)),
    tuple(Scan("luminance", 160, degrees) for degrees in (*TILTS, *QUARTERS)),
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A face as the verifier levels it, what each witness says of it, and the score of all together."""

    face: Candidate
    look: SecondLook
    evidence: float  # of the cascade
    score: float


@dataclass(frozen=True, slots=True)
class Found:
    """The faces of a photo, the largest first; `uncertain`: there is none, but something that may be one."""

    faces: list[Detection]
    uncertain: bool = False


class FaceSearch:
    """Finds faces with a finder's networks and the cascade."""

    def __init__(self, finder: FaceFinder) -> None:
        self._finder = finder

    def find(self, pixels: Pixels) -> Found:
        """The faces of an (h, w, 3) RGB picture, largest first; the longer looks only while no face is certain."""
        photo = looked_at(pixels)
        return found_of(photo, self.judged(photo), max(pixels.shape[:2]) / max(photo.size))

    def judged(self, photo: Pyramid) -> list[Judgement]:
        """All places that were judged until one was certain, the best first, one for each face.

        The first look ends the search only with a large face: beside a small one there may be others.
        """
        found: list[Judgement] = []
        for number, places in enumerate(self._proposals(photo)):
            found = distinct([*found, *self._judge(photo, places)])
            certain = [one.face.side for one in found if one.score >= CERTAIN]
            if (number and certain) or max(certain, default=0) >= LARGE * max(photo.size):
                break
        return found

    def _proposals(self, photo: Pyramid) -> Iterator[list[Candidate]]:
        """Of one look after the other: the finder's, which take little time, then the cascade's."""
        for side in FINDER_SIDES:
            yield self._finder.candidates(photo, side, LOWEST_HEAT, MOST_FOUND)
        for scans in SCANS:
            places = [place for scan in scans for place in proposals(photo, scan)]
            yield sorted(places, key=lambda place: -place.windows)[:LOOKED_AT]

    def _judge(self, photo: Pyramid, places: Sequence[Candidate]) -> list[Judgement]:
        apart: list[SecondLook] = []
        for look in sorted(self._finder.second_looks(photo, places), key=lambda look: -look.logit):
            if look.logit > HOPELESS and not any(same_place(look.face, other.face) for other in apart):
                apart.append(look)
        return distinct([self._judge_one(photo, look.face) for look in apart[:JUDGED]])

    def _judge_one(self, photo: Pyramid, face: Candidate) -> Judgement:
        look = self._finder.upright_look(photo, face)
        square = level(photo, look.face)
        evidence = square.evidence("luminance")
        if evidence < FEW_WINDOWS:
            evidence = max(evidence, square.evidence("warmth"))
        return Judgement(look.face, look, evidence, score(evidence, look.logit))


def looked_at(pixels: Pixels) -> Pyramid:
    """The photo at no more than SEEN pixels a side: no look needs more of it."""
    photo, _ = Pyramid(Image.fromarray(pixels)).shrunk(SEEN)
    return Pyramid(photo)


def level(photo: Pyramid, face: Candidate) -> LevelSquare:
    """What the cascade sees of a place."""
    return LevelSquare(photo.level_square(face.middle, face.side * REACH, face.turn, LEVEL_SIDE))


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


def score(evidence: float, logit: float) -> float:
    """0..1 of the cascade's evidence and the verifier's logit; weights by hand, from drawn persons and scenes.

    Drawn faces had logits of 5.2 and more, often with no evidence; places that are none at most 3.8, with 8 or less.
    """
    together = 1.2 * (logit - 4.4) + max(0.0, evidence - 4.0) / 4.0
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, together))))


def found_of(photo: Pyramid, judged: Sequence[Judgement], scale: float) -> Found:
    """Those that are likely, in pixels `scale` times as small; next to a certain face, others are more likely none."""
    certain = [one for one in judged if one.score >= CERTAIN]
    likely = certain or [one for one in judged if one.score >= LIKELY]
    faces = sorted((scaled(detection(photo, one), scale) for one in likely), key=lambda face: -face.side)
    return Found(faces, not faces and any(one.score >= POSSIBLE for one in judged))


def detection(photo: Pyramid, one: Judgement) -> Detection:
    """The face as the cascade's windows frame it, where any pass, and else as the finder does."""
    face = one.face if abs(one.face.turn) > NEARLY_LEVEL else replace(one.face, turn=0.0)
    square = level(photo, face)
    framed = square.framed("luminance") or square.framed("warmth")
    if framed is not None:
        left, top, side = framed
        middle = np.array([[left + side / 2, top + side / 2]], dtype=np.float32)
        ((x, y),) = turned_points(middle, face.middle, face.side * REACH, face.turn, LEVEL_SIDE)
        face = replace(face, x=float(x), y=float(y), side=side * face.side * REACH / LEVEL_SIDE)
    return Detection(square_about(face.middle, face.side), one.score, one.look.landmarks, face.turn)


def scaled(face: Detection, scale: float) -> Detection:
    """In the pixels of a photo that is `scale` times as large."""
    x0, y0, x1, y1 = (value * scale for value in face.box)
    return replace(face, box=(x0, y0, x1, y1), landmarks=None if face.landmarks is None else face.landmarks * scale)

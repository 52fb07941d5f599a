"""The face detector of this project: where faces may be, at any angle, and a second look at each, levelled."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from deployments.face.detection import Candidate
from deployments.face.upright import Landmarks, Pyramid, turned_points, wrapped

STRIDE, UNIT = 8, 32.0  # pixels: of a cell of the maps; sides are told as the logarithm of so many
STEP = 32  # the network's sides are multiples of it
LOOK_SIDE, LOOK_REACH = 64, 1.6  # pixels of a second look, and its side over the face's
LARGEST_SIDE = 0.95  # of a look: a face beyond it is no face
Maps = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SecondLook:
    """What the verifier says of a level square: `logit` of its being an upright face, and the face's own place."""

    logit: float
    face: Candidate
    landmarks: Landmarks  # in pixels of the photo


class FaceFinder:
    """Two ONNX networks: the finder of candidates and the verifier of one."""

    def __init__(self, finder: onnxruntime.InferenceSession, verifier: onnxruntime.InferenceSession) -> None:
        self._finder, self._verifier = finder, verifier

    def candidates(self, photo: Pyramid, side: int, lowest: float, most: int) -> list[Candidate]:
        """The best `most` of a heat of at least `lowest` on the photo shrunk to `side` pixels, the best first."""
        small, _ = photo.shrunk(side)
        (maps,) = self._finder.run(None, {"picture": finder_input(np.asarray(small))})
        found = [one for one in peaks(maps[0], lowest) if one.side < LARGEST_SIDE * max(side, *small.size)]
        apart: list[Candidate] = []
        for one in found[: 2 * most]:
            if not any(other.contains(one.x, one.y) for other in apart):
                apart.append(one)
        x, y = photo.size[0] / small.width, photo.size[1] / small.height
        return [replace(one, x=one.x * x, y=one.y * y, side=one.side * (x + y) / 2) for one in apart[:most]]

    def second_looks(self, photo: Pyramid, faces: Sequence[Candidate]) -> list[SecondLook]:
        """At the square about each candidate, turned level; the better one of that and of its other quarter turns."""
        if not faces:
            return []
        looks = np.concatenate([quarter_turns(level_crop(photo, face)) for face in faces])
        (told,) = self._verifier.run(None, {"crop": looks})
        best = told[:, 0].reshape(-1, 4).argmax(1)
        quarters = [replace(face, turn=face.turn + k * math.pi / 2) for face, k in zip(faces, best, strict=True)]
        return [read_look(told[4 * i + k], face) for i, (k, face) in enumerate(zip(best, quarters, strict=True))]

    def upright_look(self, photo: Pyramid, face: Candidate) -> SecondLook:
        """At the square about a face as it is turned, and in no other way."""
        (told,) = self._verifier.run(None, {"crop": verifier_input(level_crop(photo, face))})
        return read_look(told[0], face)


def level_crop(photo: Pyramid, face: Candidate) -> NDArray[np.uint8]:
    """(64, 64, 3): the verifier's part of a photo."""
    return np.asarray(photo.level_square(face.middle, face.side * LOOK_REACH, face.turn, LOOK_SIDE))


def quarter_turns(crop: NDArray[np.uint8]) -> Maps:
    """The verifier's inputs (4, 3, 64, 64) for a face that is turned by 0, 1, 2 or 3 quarters more, clockwise."""
    level = verifier_input(crop)
    return np.concatenate([np.rot90(level, k, (2, 3)) for k in range(4)])


def finder_input(pixels: NDArray[np.uint8]) -> Maps:
    """(h, w, 3) -> the finder's (1, 3, h', w') in -1..1, padded by grey to multiples of STEP."""
    height, width = pixels.shape[:2]
    whole = np.full((-(-height // STEP) * STEP, -(-width // STEP) * STEP, 3), 127, np.uint8)
    whole[:height, :width] = pixels
    return np.ascontiguousarray(whole.transpose(2, 0, 1)[None], dtype=np.float32) / 127.5 - 1.0


def verifier_input(crop: NDArray[np.uint8]) -> Maps:
    """(64, 64, 3) -> (1, 3, 64, 64) of mean 0 and deviation 1: how bright and how flat the light is does not count."""
    level = crop.astype(np.float32)
    level = (level - level.mean()) / (level.std() + 4.0)
    return np.ascontiguousarray(level.transpose(2, 0, 1)[None])


def peaks(maps: Maps, lowest: float) -> Iterator[Candidate]:
    """The local maxima of (16, h, w), in pixels of the network's picture, the best first."""
    score = maps[0]
    padded = np.pad(score, 1, constant_values=-1.0)
    around = np.max(
        [padded[y : y + score.shape[0], x : x + score.shape[1]] for y in range(3) for x in range(3)], axis=0
    )
    rows, columns = np.nonzero((score >= around) & (score >= lowest))
    for place in np.argsort(-score[rows, columns], kind="stable"):
        row, column = rows[place], columns[place]
        told = maps[:, row, column]
        side = UNIT * math.exp(min(float(told[1]), 4.0))
        x, y = (column + 0.5) * STRIDE + told[2] * side, (row + 0.5) * STRIDE + told[3] * side
        turn = math.atan2(float(told[5]), float(told[4]))
        yield Candidate(float(x), float(y), side, turn, float(told[0]))


def read_look(told: Maps, face: Candidate) -> SecondLook:
    """The verifier's 16 numbers about the square of a candidate; lengths are in sides of the candidate."""
    side = face.side * math.exp(float(np.clip(told[3], -0.7, 0.7)))
    cos, sin = math.cos(face.turn), math.sin(face.turn)
    x, y = (float(v) * face.side for v in told[1:3])
    turn = wrapped(face.turn + math.atan2(float(told[5]), float(told[4])))
    better = replace(face, x=face.x + x * cos - y * sin, y=face.y + x * sin + y * cos, side=side, turn=turn)
    level = (told[6:16].reshape(5, 2) / LOOK_REACH + 0.5) * LOOK_SIDE
    points = turned_points(level, face.middle, face.side * LOOK_REACH, face.turn, LOOK_SIDE)
    return SecondLook(float(told[0]), better, points)

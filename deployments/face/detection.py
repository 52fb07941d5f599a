"""Detected faces, and the choice of the one to embed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from deployments.errors import NoFaceError
from deployments.types import Box

Plane = Literal["luminance", "warmth"]

UNCERTAIN = (
    "Something on the photo may be a face, but not surely enough to draw from. Try a photo with the whole face seen "
    "from the front, in even light, nothing before it, and larger on the photo."
)


@dataclass(frozen=True, slots=True)
class Detection:
    """A face: `box` in pixels of the photo, `score` in 0..1, `landmarks` (5, 2) where the detector gives them.

    `turn`: radians by which the face is turned, clockwise, for models that do not align by landmarks; its box is an
    upright square all the same.
    """

    box: Box
    score: float
    landmarks: npt.NDArray[np.float32] | None = field(default=None, compare=False)
    turn: float = 0.0

    @property
    def side(self) -> float:
        """The shorter one, in pixels."""
        return min(self.box[2] - self.box[0], self.box[3] - self.box[1])

    @property
    def area(self) -> float:
        """Of the box, in square pixels of the photo."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may be a face: middle and side in pixels of the photo, `turn` in radians clockwise.

    `heat` is the score of the finder, 0 to 1, `windows` how many of the cascade pass in `plane`, each 0 where the other
    proposed the place.
    """

    x: float
    y: float
    side: float
    turn: float
    heat: float = 0.0
    windows: int = 0
    plane: Plane = "luminance"

    @property
    def middle(self) -> tuple[float, float]:
        """x and y."""
        return self.x, self.y

    def contains(self, x: float, y: float) -> bool:
        """Whether a point is within its square, whatever the turn."""
        return max(abs(x - self.x), abs(y - self.y)) < self.side / 2


def largest_face(faces: Sequence[Detection], min_face_px: int, *, uncertain: bool = False) -> Detection | NoFaceError:
    """The face to embed. The error is returned, not raised: it must not fail the other photos of a batch.

    `uncertain`: none of `faces` is one for certain, but something on the photo may be.
    """
    accepted = {"min_face_px": min_face_px, "pose": "frontal", "faces": "one or more; the largest is used"}
    if not faces and uncertain:
        return NoFaceError(UNCERTAIN, reason="uncertain_face", faces_found=0, accepted=accepted)
    if not faces:
        return NoFaceError("no face found", faces_found=0, accepted=accepted)
    largest = max(faces, key=lambda face: face.area)
    if largest.side < min_face_px:
        size = round(largest.side)
        return NoFaceError("face too small", faces_found=len(faces), largest_face_px=size, accepted=accepted)
    return largest

"""Detected faces, and the choice of the one to embed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from deployments.errors import NoFaceError
from deployments.types import Box


@dataclass(frozen=True, slots=True)
class Detection:
    """A face: `box` in pixels of the photo, `score` in 0..1, `landmarks` (5, 2) where the detector gives them."""

    box: Box
    score: float
    landmarks: npt.NDArray[np.float32] | None = field(default=None, compare=False)

    @property
    def side(self) -> float:
        """The shorter one, in pixels."""
        return min(self.box[2] - self.box[0], self.box[3] - self.box[1])

    @property
    def area(self) -> float:
        """Of the box, in square pixels of the photo."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


def largest_face(faces: Sequence[Detection], min_face_px: int) -> Detection | NoFaceError:
    """The face to embed. The error is returned, not raised: it must not fail the other photos of a batch."""
    accepted = {"min_face_px": min_face_px, "pose": "frontal", "faces": "one or more; the largest is used"}
    if not faces:
        return NoFaceError("no face found", faces_found=0, accepted=accepted)
    largest = max(faces, key=lambda face: face.area)
    if largest.side < min_face_px:
        size = round(largest.side)
        return NoFaceError("face too small", faces_found=len(faces), largest_face_px=size, accepted=accepted)
    return largest

"""Face models that align each face by its five landmarks before they embed it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import onnxruntime
from insightface.utils.face_align import norm_crop

from deployments.common.onnx_session import lost_provider_errors
from deployments.errors import NoFaceError
from deployments.face.detection import Detection, largest_face
from deployments.face.quality import inspected
from deployments.types import FaceEmbedding, FoundFaces, Photo, Pixels, Vector


class AlignedFaceModel(ABC):
    """Detects photo by photo, embeds the faces of a batch together. Its pictures and crops are BGR, as OpenCV's are."""

    def __init__(
        self,
        sessions: Sequence[onnxruntime.InferenceSession],
        providers: Sequence[str],
        *,
        crop_size: int,
        min_face_px: int,
        weights: Mapping[str, str],
    ) -> None:
        """`crop_size`: pixels of a side of an aligned face. `weights` are the SHA-256 of the files, as in receipts."""
        self._on_device = partial(lost_provider_errors, sessions, providers)
        self._crop_size = crop_size
        self._min_face_px = min_face_px
        self._weights = weights

    def embed(self, photos: Sequence[Photo]) -> list[FaceEmbedding | NoFaceError]:
        """As `FaceModel.embed`: faces are aligned by their landmarks, and the recogniser takes them all."""
        with self._on_device():
            return self._embed(photos)

    def inspect(self, photo: Photo) -> FoundFaces:
        """As `FaceModel.inspect`, by the detector that `embed` uses; the recogniser does not run."""
        with self._on_device():
            faces = self._find_faces(_bgr(photo))
        return inspected(photo.pixels, faces, self._min_face_px)

    def _embed(self, photos: Sequence[Photo]) -> list[FaceEmbedding | NoFaceError]:
        pictures = [_bgr(photo) for photo in photos]
        found = [largest_face(self._find_faces(picture), self._min_face_px) for picture in pictures]
        crops = [
            norm_crop(picture, face.landmarks, image_size=self._crop_size)
            for picture, face in zip(pictures, found, strict=True)
            if isinstance(face, Detection)
        ]
        vectors = iter(self._encode(crops) if crops else ())
        return [
            FaceEmbedding(next(vectors), face.box, face.score, face.landmarks, self._weights)
            if isinstance(face, Detection)
            else face
            for face in found
        ]

    @abstractmethod
    def _find_faces(self, picture: Pixels) -> list[Detection]:
        """The faces of an (h, w, 3) picture, with landmarks."""

    @abstractmethod
    def _encode(self, crops: Sequence[Pixels]) -> Vector:
        """One or more aligned faces -> (n, width), each of length 1."""


def _bgr(photo: Photo) -> Pixels:
    return np.ascontiguousarray(photo.pixels[..., ::-1])

"""Face embedding: the protocol of face models, their loader, and the model of the embedded profile."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnxruntime

from deployments.common.checksums import sha256_by_name
from deployments.common.onnx_session import lost_provider_errors, provider_list, require_provider, session_options
from deployments.config import (
    CascadeFaceModelConfig,
    FaceModelConfig,
    InsightFaceModelConfig,
    YuNetFaceModelConfig,
    model_path,
)
from deployments.errors import NoFaceError
from deployments.face.alignment import crop_face, encoder_input
from deployments.face.cascade import find_faces, find_largest
from deployments.face.detection import Detection, largest_face
from deployments.face.exposure import in_good_light
from deployments.face.quality import inspected
from deployments.face.similarity import normalised
from deployments.types import Box, FaceEmbedding, FoundFaces, Photo, Pixels, Vector


class FaceModel(Protocol):
    """Finds and embeds faces. Its methods raise DeviceLostError where the device works no more."""

    def embed(self, photos: Sequence[Photo]) -> list[FaceEmbedding | NoFaceError]:
        """The largest usable face of each photo, in order. Errors are values: they must not fail the other photos."""
        ...

    def inspect(self, photo: Photo) -> FoundFaces:
        """All faces of a photo, and whether `embed` would accept the largest; nothing is embedded."""
        ...


def load_face_model(config: FaceModelConfig) -> FaceModel:
    """Opens the model's ONNX sessions. Raises: what `open_encoder`, or the constructor of the model, raises."""
    match config:
        case CascadeFaceModelConfig():
            return CascadeFaceModel(config)
        # Imported here: they need OpenCV and its system library, which the other model does not.
        case InsightFaceModelConfig():
            from deployments.face.insightface import InsightFaceModel

            return InsightFaceModel(config)
        case YuNetFaceModelConfig():
            from deployments.face.yunet_model import YuNetFaceModel

            return YuNetFaceModel(config)


class CascadeFaceModel:
    """scikit-image's cascade detects the face, an ONNX encoder embeds it: (n, 3, 112, 112) in -1..1 -> (n, 512)."""

    def __init__(self, config: CascadeFaceModelConfig) -> None:
        self._min_face_px = config.min_face_px
        self._avatar_face = config.avatar_face
        self._encoder = open_encoder(config)
        self._providers = config.providers
        encoder = model_path(config.encoder)
        self._weights = sha256_by_name([(f"face/{encoder.name}", encoder)])

    def embed(self, photos: Sequence[Photo]) -> list[FaceEmbedding | NoFaceError]:
        """As `FaceModel.embed`, without landmarks; on square avatars `avatar_face`, where set, replaces detection."""
        found = [self._face(photo) for photo in photos]
        crops = [
            _crop(photo, face.box) for photo, face in zip(photos, found, strict=True) if isinstance(face, Detection)
        ]
        with lost_provider_errors([self._encoder], self._providers):
            vectors = iter(self._encode(crops))
        return [
            FaceEmbedding(next(vectors), face.box, face.score, weights=self._weights)
            if isinstance(face, Detection)
            else face
            for face in found
        ]

    def inspect(self, photo: Photo) -> FoundFaces:
        """As `FaceModel.inspect`, by the full search: `embed` ends its own at the first large face that is certain."""
        return inspected(photo.pixels, find_faces(photo.pixels), self._min_face_px)

    def _face(self, photo: Photo) -> Detection | NoFaceError:
        height, width = photo.pixels.shape[:2]
        if photo.is_generated and self._avatar_face is not None and height == width:
            left, top, right, bottom = (share * width for share in self._avatar_face)
            return Detection((left, top, right, bottom), score=1.0)
        return largest_face(find_largest(photo.pixels), self._min_face_px)

    def _encode(self, crops: Sequence[np.ndarray]) -> list[Vector]:
        """One by one: on a CPU batching gains nothing, and a vector must not depend on the other faces."""
        return [self._encode_one(crop) for crop in crops]

    def _encode_one(self, crop: np.ndarray) -> Vector:
        (embedding,) = self._encoder.run(["embedding"], {"input": encoder_input(crop[None])})
        return normalised(np.asarray(embedding[0], dtype=np.float32))


def _crop(photo: Photo, box: Box) -> Pixels:
    """The encoder's input, in good light: it reads the colours of skin and hair. An avatar has the light it should."""
    crop = crop_face(photo.pixels, box)
    return crop if photo.is_generated else in_good_light(crop, photo.pixels, box)


def open_encoder(config: CascadeFaceModelConfig) -> onnxruntime.InferenceSession:
    """A session on the first of `providers`. Raises: RuntimeError where that is unavailable."""
    path = str(model_path(config.encoder))
    providers = provider_list(config.providers)
    session = onnxruntime.InferenceSession(path, session_options(config.threads), providers=providers)
    require_provider(session, config.providers)
    return session

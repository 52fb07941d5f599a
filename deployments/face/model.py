"""Face embedding: the protocol of face models, their loader, and the model of the embedded profile."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime

from deployments.common.checksums import sha256_by_name
from deployments.common.onnx_session import lost_provider_errors, provider_list, require_provider, session_options
from deployments.config import (
    CPU,
    CascadeFaceModelConfig,
    FaceModelConfig,
    InsightFaceModelConfig,
    YuNetFaceModelConfig,
    model_path,
)
from deployments.errors import NoFaceError
from deployments.face.alignment import crop_face, crop_turned_face, encoder_input
from deployments.face.detection import Detection, largest_face
from deployments.face.exposure import in_good_light
from deployments.face.finder import FaceFinder
from deployments.face.quality import inspected
from deployments.face.search import FaceSearch
from deployments.face.similarity import normalised
from deployments.types import FaceEmbedding, FoundFaces, Photo, Pixels, Vector


class FaceModel(Protocol):
    """Finds and embeds faces. Its methods raise DeviceLostError where the device works no more."""

    def embed(self, photos: Sequence[Photo]) -> list[FaceEmbedding | NoFaceError]:
        """The largest usable face of each photo, in order. Errors are values: they must not fail the other photos."""
        ...

    def inspect(self, photo: Photo) -> FoundFaces:
        """All faces of a photo, and whether `embed` would accept the largest; nothing is embedded."""
        ...


def load_face_model(config: FaceModelConfig) -> FaceModel:
    """Opens the model's ONNX sessions. Raises: what `open_session`, or the constructor of the model, raises."""
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
    """A search for faces at any angle, and an ONNX encoder: (n, 3, side, side) in -1..1 -> (n, 512)."""

    def __init__(self, config: CascadeFaceModelConfig) -> None:
        self._min_face_px = config.min_face_px
        self._avatar_face = config.avatar_face
        self._encoder = open_session(config, config.encoder)
        self._likeness = None if config.likeness is None else open_session(config, config.likeness)
        self._search = open_search(config)
        self._providers = config.providers
        paths = (config.encoder, config.likeness, config.finder, config.verifier)
        files = [model_path(path) for path in paths if path is not None]
        self._weights = sha256_by_name((f"face/{file.name}", file) for file in files)

    def embed(self, photos: Sequence[Photo]) -> list[FaceEmbedding | NoFaceError]:
        """As `FaceModel.embed`; on square avatars `avatar_face`, where set, replaces detection.

        A face that is turned is embedded as if it were upright.
        """
        found = [(photo, self._face(photo)) for photo in photos]
        sessions = [session for session in (self._encoder, self._likeness) if session is not None]
        with lost_provider_errors(sessions, self._providers):
            return [self._embedding(photo, face) if isinstance(face, Detection) else face for photo, face in found]

    def inspect(self, photo: Photo) -> FoundFaces:
        """As `FaceModel.inspect`, by the full search: `embed` ends its own at the first large face that is certain."""
        found = self._search.find(photo.pixels)
        return inspected(photo.pixels, found.faces, self._min_face_px, uncertain=found.uncertain)

    def _face(self, photo: Photo) -> Detection | NoFaceError:
        height, width = photo.pixels.shape[:2]
        if photo.is_generated and self._avatar_face is not None and height == width:
            left, top, right, bottom = (share * width for share in self._avatar_face)
            return Detection((left, top, right, bottom), score=1.0)
        found = self._search.find(photo.pixels)
        return largest_face(found.faces, self._min_face_px, uncertain=found.uncertain)

    def _embedding(self, photo: Photo, face: Detection) -> FaceEmbedding:
        """Faces go one by one: on a CPU batching gains nothing, and a vector must not depend on the other faces."""
        crops: dict[int, Pixels] = {}  # by their sides in pixels: both networks may take the same

        def vector(session: onnxruntime.InferenceSession) -> Vector:
            side: int = session.get_inputs()[0].shape[2]
            if side not in crops:
                crops[side] = _crop(photo, face, side)
            (vectors,) = session.run(["embedding"], {"input": encoder_input(crops[side][None])})
            return normalised(np.asarray(vectors[0], dtype=np.float32))

        read, likeness = vector(self._encoder), None if self._likeness is None else vector(self._likeness)
        return FaceEmbedding(read, face.box, face.score, face.landmarks, self._weights, likeness=likeness)


def _crop(photo: Photo, face: Detection, size: int) -> Pixels:
    """The encoder's input (size, size, 3), in good light: it reads the colours of skin and hair.

    An avatar has the light it should.
    """
    pixels = photo.pixels
    crop = crop_turned_face(pixels, face.box, face.turn, size) if face.turn else crop_face(pixels, face.box, size)
    return crop if photo.is_generated else in_good_light(crop, pixels, face.box)


def open_search(config: CascadeFaceModelConfig) -> FaceSearch:
    """The search for faces, which runs on the CPU. Raises: FileNotFoundError or onnxruntime's errors."""
    options, cpu = session_options(config.threads), list(CPU)
    finder, verifier = (
        onnxruntime.InferenceSession(str(model_path(path)), options, providers=cpu)
        for path in (config.finder, config.verifier)
    )
    return FaceSearch(FaceFinder(finder, verifier))


def open_session(config: CascadeFaceModelConfig, path: Path) -> onnxruntime.InferenceSession:
    """A session on the first of `providers`. Raises: RuntimeError where that is unavailable."""
    providers = provider_list(config.providers)
    session = onnxruntime.InferenceSession(str(model_path(path)), session_options(config.threads), providers=providers)
    require_provider(session, config.providers)
    return session

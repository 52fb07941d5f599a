"""A face in a photo as a vector: what a face model does, and the one of the embedded profile."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnxruntime

from deployments.config import FaceModelConfig, model_path
from deployments.embedded.face_crop import crop_face, encoder_input
from deployments.errors import NoFaceError
from deployments.face.cascade import Detection, find_faces
from deployments.types import FaceEmbedding, Photo, Vector

MIN_NORM = 1e-6


class FaceModel(Protocol):
    def embed(self, photos: Sequence[Photo]) -> list[FaceEmbedding | NoFaceError]:
        """The largest usable face of each photo, in order. An error is a value: it must not fail its neighbours."""
        ...


class CascadeFaceModel:
    """scikit-image's cascade finds the face, an ONNX encoder reads it: (n, 3, 112, 112) in -1..1 -> (n, 512)."""

    def __init__(self, config: FaceModelConfig) -> None:
        self._min_face_px = config.min_face_px
        self._encoder = open_encoder(config)

    def embed(self, photos: Sequence[Photo]) -> list[FaceEmbedding | NoFaceError]:
        found = [self._largest_face(photo) for photo in photos]
        crops = [
            crop_face(photo.pixels, face.box)
            for photo, face in zip(photos, found, strict=True)
            if isinstance(face, Detection)
        ]
        vectors = iter(self._encode(crops))
        return [
            FaceEmbedding(next(vectors), face.box, face.score) if isinstance(face, Detection) else face
            for face in found
        ]

    def _largest_face(self, photo: Photo) -> Detection | NoFaceError:
        faces = find_faces(photo.pixels)
        accepted = {"min_face_px": self._min_face_px, "pose": "frontal", "faces": "one or more; the largest is used"}
        if not faces:
            return NoFaceError("no face found", faces_found=0, accepted=accepted)
        if faces[0].side < self._min_face_px:
            return NoFaceError(
                "face too small", faces_found=len(faces), largest_face_px=round(faces[0].side), accepted=accepted
            )
        return faces[0]

    def _encode(self, crops: Sequence[np.ndarray]) -> list[Vector]:
        """One by one: on a CPU a batch of faces gains nothing, and a vector cannot depend on its neighbours."""
        return [self._encode_one(crop) for crop in crops]

    def _encode_one(self, crop: np.ndarray) -> Vector:
        (embedding,) = self._encoder.run(["embedding"], {"input": encoder_input(crop[None])})
        vector = np.asarray(embedding[0], dtype=np.float32)
        return vector / max(float(np.linalg.norm(vector)), MIN_NORM)


def open_encoder(config: FaceModelConfig) -> onnxruntime.InferenceSession:
    """A session on the first of `providers`, or none: onnxruntime itself falls back to the CPU in silence."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = config.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model_path(config.encoder)), options, providers=list(config.providers))
    active = session.get_providers()
    if active[0] != config.providers[0]:
        raise RuntimeError(f"{config.providers[0]} was asked for, but onnxruntime runs on {', '.join(active)}")
    return session


def face_similarity(a: FaceEmbedding, b: FaceEmbedding) -> float:
    """Cosine of the two vectors, -1..1: 1 is the same face, about 0 two strangers."""
    return float(np.clip(np.dot(a.vector, b.vector), -1.0, 1.0))

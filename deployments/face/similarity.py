"""Normalisation and comparison of face vectors."""

import numpy as np

from deployments.types import FaceEmbedding, Vector

MIN_NORM = 1e-6


def normalised(vectors: Vector) -> Vector:
    """(..., n) -> the same, each of length 1."""
    unit: Vector = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), MIN_NORM)
    return unit


def face_similarity(a: FaceEmbedding, b: FaceEmbedding) -> float:
    """Cosine of the two `likeness` vectors, or where a face has none of `vector`, -1..1: 1 is the same face.

    An avatar is drawn from the photo's `vector`, so that its own is like that however well the photo was read.
    """
    if a.likeness is None or b.likeness is None:
        return _cosine(a.vector, b.vector)
    return _cosine(a.likeness, b.likeness)


def _cosine(a: Vector, b: Vector) -> float:
    return float(np.clip(np.dot(a, b), -1.0, 1.0))

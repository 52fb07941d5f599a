"""Normalisation and comparison of face vectors."""

import numpy as np

from deployments.types import FaceEmbedding, Vector

MIN_NORM = 1e-6


def normalised(vectors: Vector) -> Vector:
    """(..., n) -> the same, each of length 1."""
    unit: Vector = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), MIN_NORM)
    return unit


def face_similarity(a: FaceEmbedding, b: FaceEmbedding) -> float:
    """Cosine of the two vectors, -1..1: 1 is the same face, about 0 are different people."""
    return float(np.clip(np.dot(a.vector, b.vector), -1.0, 1.0))

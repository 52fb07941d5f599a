"""Faces of nobody, for benchmarks that draw."""

import numpy as np

from deployments.types import FaceEmbedding


def random_face(seed: int) -> FaceEmbedding:
    """A random unit vector, (512,), the same for the same seed; box and score mean nothing."""
    vector = np.random.default_rng(seed).normal(size=512).astype(np.float32)
    return FaceEmbedding(vector / np.linalg.norm(vector), (0, 0, 1, 1), 1.0)

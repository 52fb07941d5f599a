"""Samples of nobody, for steps that are only timed or compiled."""

import io
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from PIL import Image

from deployments.diffusion.model.face_encoder import HEAD_SIDE
from deployments.diffusion.model.ip_adapter import FACE_WIDTH
from deployments.types import AvatarSpec, FaceEmbedding

S = TypeVar("S")


def blank_samples(start: Callable[[AvatarSpec, FaceEmbedding], S], size: tuple[int, int], rows: int) -> list[S]:
    """So many samples of this width and height, each one row of the batch, made by a model's `start`."""
    width, height = size
    spec = AvatarSpec(
        model="", seed=0, prompt="", negative_prompt="", width=width, height=height, num_inference_steps=2,
        guidance_scale=1.0, task_id="", image_index=0, submitted_at=0.0, deadline=0.0,
    )  # fmt: skip
    return [start(spec, _blank_face()) for _ in range(rows)]


def _blank_face() -> FaceEmbedding:
    picture = io.BytesIO()
    Image.new("RGB", (HEAD_SIDE, HEAD_SIDE)).save(picture, "JPEG")
    return FaceEmbedding(np.zeros(FACE_WIDTH, np.float32), (0, 0, 1, 1), 0.0, heads=(picture.getvalue(),))

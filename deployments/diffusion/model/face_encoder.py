"""What an IP-Adapter's projection takes for a face: its vector, or what CLIP sees of the pictures of a head."""

import io
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from deployments.diffusion.model.ip_adapter import FACE_WIDTH
from deployments.diffusion.model.transfer import to_device
from deployments.types import FaceEmbedding

HEAD_SIDE = 512  # pixels; the side of the pictures of heads that the face stage cuts out
# Of the pictures that CLIP was trained on; transformers' CLIPImageProcessor has the same.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def heads_of(face: FaceEmbedding) -> tuple[bytes, ...]:
    """The pictures of a face's head, at least one. Raises: ValueError where there is none."""
    if not face.heads:
        raise ValueError("the model draws from pictures of the head, which the face stage did not cut out")
    return face.heads


class FaceEncoder(Protocol):
    """Makes the input of an adapter's projection."""

    def encode(self, face: FaceEmbedding) -> Tensor:
        """(photos, ...): a row for each photo of the person. Raises: ValueError where the face lacks what it needs."""
        ...

    def no_face(self) -> Tensor:
        """(1, ...): what stands for no face at all, for guidance."""
        ...

    def photos(self, face: FaceEmbedding) -> int:
        """Rows of `encode`."""
        ...


class FaceVectors:
    """For IP-Adapter FaceID: the embedding itself, (1, 512), however many photos it is of."""

    def encode(self, face: FaceEmbedding) -> Tensor:
        """As `FaceEncoder.encode`."""
        return torch.from_numpy(face.vector)[None]

    def no_face(self) -> Tensor:
        """As `FaceEncoder.no_face`."""
        return torch.zeros(1, FACE_WIDTH)

    def photos(self, face: FaceEmbedding) -> int:
        """One."""
        return 1


class HeadPictures:
    """For IP-Adapter Plus: CLIP's second to last layer, (photos, patches, channels), of each head.

    Ye et al. 2023; no face is a picture of zeros, as in diffusers.
    """

    def __init__(self, clip: CLIPVisionModelWithProjection) -> None:
        self._clip = clip
        self._side: int = clip.config.image_size

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype, device: torch.device) -> "HeadPictures":
        """Reads CLIP's vision model, safetensors only. Raises: OSError where a file is missing."""
        clip = CLIPVisionModelWithProjection.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True
        )
        return cls(clip.to(device).eval())

    @property
    def width(self) -> int:
        """Numbers of each patch."""
        width: int = self._clip.config.hidden_size
        return width

    def encode(self, face: FaceEmbedding) -> Tensor:
        """As `FaceEncoder.encode`."""
        return self._states(torch.stack([self._pixels(head) for head in heads_of(face)]))

    def no_face(self) -> Tensor:
        """As `FaceEncoder.no_face`."""
        return self._states(torch.zeros(1, 3, self._side, self._side))

    def photos(self, face: FaceEmbedding) -> int:
        """As many as there are heads."""
        return len(face.heads)

    def _pixels(self, head: bytes) -> Tensor:
        """(3, side, side), normalised."""
        picture = Image.open(io.BytesIO(head)).convert("RGB")
        if picture.size != (self._side, self._side):
            picture = picture.resize((self._side, self._side), Image.Resampling.BICUBIC)
        levels = torch.from_numpy(np.asarray(picture, dtype=np.float32)) / 255  # (side, side, 3)
        return ((levels - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(2, 0, 1)

    @torch.inference_mode()
    def _states(self, pixels: Tensor) -> Tensor:
        inputs = to_device(pixels.to(self._clip.dtype), self._clip.device)
        seen = self._clip(inputs, output_hidden_states=True)
        states: Tensor = seen.hidden_states[-2]
        return states

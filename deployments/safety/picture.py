"""Preprocessing of pictures for vision models, by the `preprocessor_config.json` of each model.

The processors of transformers would need torchvision for the same few lines.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor

from deployments.types import Pixels

Channels = tuple[float, float, float]


def _size(value: Any) -> Any:
    """A number is the shorter side of a resize, and both sides of a crop."""
    return {"shortest_edge": value, "height": value, "width": value} if isinstance(value, int) else value


class Size(BaseModel):
    """In pixels. `shortest_edge` keeps the aspect ratio of a resize; without it, a side that is None is not changed."""

    model_config = ConfigDict(frozen=True)

    shortest_edge: int | None = None
    height: int | None = None
    width: int | None = None


class PictureFormat(BaseModel):
    """How a model expects its input. Defaults are those of CLIP's training."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    size: Annotated[Size, BeforeValidator(_size)] = Size(shortest_edge=224)
    do_center_crop: bool = False
    crop_size: Annotated[Size, BeforeValidator(_size)] = Size(height=224, width=224)
    resample: int = Image.Resampling.BICUBIC
    rescale_factor: float = 1 / 255
    image_mean: Channels = Field((0.48145466, 0.4578275, 0.40821073))
    image_std: Channels = Field((0.26862954, 0.26130258, 0.27577711))

    @classmethod
    def read(cls, folder: Path) -> "PictureFormat":
        """Raises: OSError; ValueError."""
        return cls.model_validate(json.loads((folder / "preprocessor_config.json").read_text()))

    def tensor(self, pictures: Sequence[Pixels]) -> Tensor:
        """(pictures, 3, h, w) float32 of pictures (h, w, 3) of any sizes."""
        prepared = np.stack([self._prepared(Image.fromarray(pixels)) for pixels in pictures])
        return torch.from_numpy(prepared).permute(0, 3, 1, 2).contiguous()

    def _prepared(self, picture: Image.Image) -> npt.NDArray[np.float32]:
        resized = picture.resize(self._resized_size(picture), Image.Resampling(self.resample))
        if self.do_center_crop:
            resized = _center_crop(resized, self.crop_size)
        mean, std = (np.asarray(channels, np.float32) for channels in (self.image_mean, self.image_std))
        levels = np.asarray(resized, np.float32) * np.float32(self.rescale_factor)
        prepared: npt.NDArray[np.float32] = (levels - mean) / std
        return prepared

    def _resized_size(self, picture: Image.Image) -> tuple[int, int]:
        size = self.size
        if size.shortest_edge is None:
            return size.width or picture.width, size.height or picture.height
        short, long = sorted(picture.size)
        edge = int(size.shortest_edge * long / short)
        return (size.shortest_edge, edge) if picture.width == short else (edge, size.shortest_edge)


def _center_crop(picture: Image.Image, size: Size) -> Image.Image:
    width, height = size.width or picture.width, size.height or picture.height
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))

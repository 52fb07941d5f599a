"""Pictures from the latents of a VAE."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from deployments.common.device_health import is_out_of_memory
from deployments.types import Pixels


def decoded(vae: Any, latents: Tensor) -> Pixels:
    """The picture (h, w, 3) of latents (1, c, h, w) as the VAE encodes them.

    If memory is short it is decoded in tiles with blended seams. Raises: RuntimeError where not even a tile fits.
    """
    image = _whole(vae, latents)
    if image is None:
        image = _in_tiles(vae, latents)
    levels = (image[0].float() / 2 + 0.5).clamp(0, 1) * 255
    return np.ascontiguousarray(levels.permute(1, 2, 0).round().to(torch.uint8).cpu().numpy())


def _whole(vae: Any, latents: Tensor) -> Tensor | None:
    """The image (1, 3, h, w); None where memory is short."""
    try:
        image: Tensor = vae.decode(latents, return_dict=False)[0]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None  # retried by the caller: the failed attempt's memory is freed with its exception
    return image


def _in_tiles(vae: Any, latents: Tensor) -> Tensor:
    """The image (1, 3, h, w), tile by tile: needs the memory of one tile, and more time."""
    vae.enable_tiling()
    try:
        image: Tensor = vae.decode(latents, return_dict=False)[0]
    finally:
        vae.disable_tiling()
    return image

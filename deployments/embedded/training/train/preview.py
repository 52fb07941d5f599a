"""Fits the linear map by which previews are made of the generator's latents, to what its own decoder makes of them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import AutoencoderTiny
from numpy.typing import NDArray

from deployments.embedded.training.data.dataset import draw_large

SIDE = 64  # pixels of a preview

Numbers = NDArray[np.floating[Any]]


def fit_preview(weights: Path, seed: int) -> tuple[Numbers, Numbers, float]:
    """Factors (12, 12), bias (12,), and the share of the decoded pictures' variance that they explain.

    The columns are the 2 x 2 pixels of a cell in red, then those in green, then those in blue, in -1..1.
    """
    vae = AutoencoderTiny.from_pretrained(weights / "diffusion" / "vae").eval()
    drawn = np.ascontiguousarray(draw_large((seed, 0))[1][..., :3])
    pictures = torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        latents = vae.encode(pictures).latents  # (n, 12, 32, 32)
        small = F.adaptive_avg_pool2d(vae.decode(latents).sample, SIDE)
    seen, wanted = (_rows(each) for each in (latents, F.pixel_unshuffle(small, 2)))
    solved, *_ = np.linalg.lstsq(np.hstack([seen, np.ones((len(seen), 1))]), wanted, rcond=None)
    factors, bias = solved[:-1], solved[-1]
    error = wanted - (seen @ factors + bias)
    return factors, bias, float(1 - error.var() / wanted.var())


def _rows(grid: torch.Tensor) -> Numbers:
    """(n, c, h, w) to (n * h * w, c)."""
    return grid.permute(0, 2, 3, 1).flatten(0, 2).double().numpy()

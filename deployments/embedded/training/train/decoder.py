"""Trains the decoder alone: the encoder of this autoencoder is arithmetic."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from deployments.embedded.training.train.networks import build_vae
from deployments.embedded.training.train.precision import autocast

CROP = 128
LATENT_NOISE = 0.04  # at most; the UNet's latents are never exact


def random_crops(pictures: NDArray[np.uint8], count: int, rng: np.random.Generator) -> Tensor:
    """(count, 3, 128, 128) in -1..1, at places that are multiples of a latent's 8 pixels."""
    side = pictures.shape[1]
    crops = []
    for index in rng.integers(len(pictures), size=count):
        top, left = rng.integers(0, (side - CROP) // 8 + 1, 2) * 8
        crop = pictures[index, top : top + CROP, left : left + CROP, :3]
        crops.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels, downwards (..., h - 1, w) and to the right (..., h, w - 1)."""
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def sharp_loss(drawn: Tensor, truth: Tensor) -> Tensor:
    """Absolute error of pixels and of their differences; the squares keep faint lines, as of a mouth, from fading."""
    (down, right), (true_down, true_right) = edges(drawn), edges(truth)
    absolute = F.l1_loss(drawn, truth) + 0.7 * (F.l1_loss(down, true_down) + F.l1_loss(right, true_right))
    return absolute + 4.0 * F.mse_loss(drawn, truth)


def train_decoder(
    pictures: NDArray[np.uint8], steps: int, seed: int, checkpoint: Path, batch: int = 8
) -> AutoencoderTiny:
    """`pictures` are (n, 256, 256, 3 or more); goes on from the checkpoint's weights where there is one."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vae = build_vae().to(memory_format=torch.channels_last)
    peak = 2e-3
    if checkpoint.exists():
        peak = 1e-3
        vae.load_state_dict(torch.load(checkpoint, weights_only=True))
    optimiser = torch.optim.AdamW(vae.decoder.parameters(), lr=peak, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps, pct_start=0.05)
    bar = tqdm(range(steps), "decoder", mininterval=5)
    mean_loss = 0.0
    for step in bar:
        truth = random_crops(pictures, batch, rng)
        with torch.no_grad():
            latents = vae.encode(truth).latents
            latents += torch.rand(batch, 1, 1, 1) * LATENT_NOISE * torch.randn_like(latents)
        with autocast():
            drawn = vae.decode(latents.contiguous(memory_format=torch.channels_last)).sample
        loss = sharp_loss(drawn.float(), truth)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        mean_loss += (float(loss.detach()) - mean_loss) * max(0.01, 1 / (step + 1))
        bar.set_postfix(loss=f"{mean_loss:.4f}")
        if step % 200 == 199:
            torch.save(vae.state_dict(), checkpoint)
    torch.save(vae.state_dict(), checkpoint)
    return vae.eval()

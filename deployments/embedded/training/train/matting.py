"""Trains the matting network on rendered portraits with the renderer's exact alpha."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from deployments.embedded.training.train.networks import MattingNet
from deployments.embedded.training.train.precision import autocast

SIDE = 320
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # rembg's, for every net of the U2-Net family


def normalised(pictures: Tensor) -> Tensor:
    """(n, 3, h, w) in 0..1 -> what rembg feeds: brightest value to 1, then mean and deviation."""
    brightest = pictures.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
    return (pictures / brightest - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def spoiled(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, noise and gain as generated pictures have them."""
    n = pictures.shape[0]
    factor = (0.25, 0.5, 0.75, 1.0)[int(torch.randint(4, (1,), generator=generator))]
    small = F.interpolate(pictures, scale_factor=factor, mode="area") if factor < 1 else pictures
    pictures = F.interpolate(small, size=pictures.shape[2:], mode="bilinear")
    noise = torch.randn(pictures.shape, generator=generator) * 0.03 * torch.rand(n, 1, 1, 1, generator=generator)
    gain = 1 + 0.1 * torch.randn(n, 3, 1, 1, generator=generator)
    return (pictures * gain + noise).clamp(0, 1)


def matting_batch(
    pictures: NDArray[np.uint8], size: int, rng: np.random.Generator, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Half of the persons are put before another flat colour, at times a gradient of two."""
    chosen = torch.from_numpy(pictures[np.sort(rng.integers(len(pictures), size=size))]).permute(0, 3, 1, 2)
    colours, alpha = chosen[:, :3].float() / 255, chosen[:, 3:].float() / 255
    first, second = torch.rand(2, size, 3, 1, 1, generator=generator)
    second = torch.where(torch.rand(size, 1, 1, 1, generator=generator) < 0.5, first, second)
    ramp = torch.linspace(0, 1, colours.shape[2])[:, None]
    other = first * (1 - ramp) + second * ramp
    replaced = torch.rand(size, 1, 1, 1, generator=generator) < 0.4
    colours = torch.where(replaced, colours * alpha + other * (1 - alpha), colours)
    flipped = torch.rand(size, 1, 1, 1, generator=generator) < 0.5
    colours, alpha = (
        torch.where(flipped, colours.flip(3), colours),
        torch.where(flipped, alpha.flip(3), alpha),
    )
    large = F.interpolate(spoiled(colours, generator), size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return normalised(large), F.interpolate(alpha, size=(SIDE, SIDE), mode="bilinear")


def matting_loss(logits: Tensor, alpha: Tensor) -> Tensor:
    """Cross entropy plus 1 - soft intersection over union; (n, 1, h, w) each, `alpha` in 0..1."""
    mask = torch.sigmoid(logits)
    overlap = (mask * alpha).sum((1, 2, 3))
    union = (mask + alpha - mask * alpha).sum((1, 2, 3)).clamp(min=1)
    return F.binary_cross_entropy_with_logits(logits, alpha) + (1 - overlap / union).mean()


def train_matting(pictures: NDArray[np.uint8], steps: int, seed: int, checkpoint: Path, batch: int = 8) -> MattingNet:
    """`pictures` are (n, 256, 256, 4): RGB and alpha; goes on from the checkpoint's weights where there is one."""
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    network = MattingNet()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    peak = 4e-3
    if checkpoint.exists():
        peak = 2e-3
        network.load_state_dict(torch.load(checkpoint, weights_only=True))
    optimiser = torch.optim.AdamW(network.parameters(), lr=peak, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps, pct_start=0.1)
    bar = tqdm(range(steps), "matting", mininterval=5)
    mean_loss = 0.0
    for step in bar:
        x, alpha = matting_batch(pictures, batch, rng, generator)
        with autocast():
            logits = network.logits(x.contiguous(memory_format=torch.channels_last))
        loss = matting_loss(logits.float(), alpha)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        mean_loss += (float(loss.detach()) - mean_loss) * max(0.02, 1 / (step + 1))
        bar.set_postfix(loss=f"{mean_loss:.4f}")
    torch.save(network.state_dict(), checkpoint)
    return network.eval()

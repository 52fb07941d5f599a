"""What training does to a stored picture, so that it differs from epoch to epoch."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from deployments.embedded.training.renderer.parts import BACKGROUND, HAIR, SKIN

SMUDGES = 3  # on a face, at most
LEAST_OWN = 0.02  # of a picture, for its colour to be taken
COARSER = 2  # pixels across which smudges are drawn at once


def jittered(x: Tensor, generator: torch.Generator) -> Tensor:
    """(n, 3, h, w) with a gain and a slope of light for each picture, and at times out of focus or with grain."""
    n, side = x.shape[0], x.shape[2]
    gain = 1 + 0.07 * torch.randn(n, 1, 1, 1, generator=generator) + 0.02 * torch.randn(n, 3, 1, 1, generator=generator)
    ramp = torch.linspace(-0.12, 0.12, side)
    slope = torch.randn(2, n, 1, 1, 1, generator=generator)
    gain = gain + slope[0] * ramp[:, None] + slope[1] * ramp
    soft = torch.rand(n, generator=generator) < 0.25
    if soft.any():
        x = x.clone()
        x[soft] = F.avg_pool2d(x[soft], 3, 1, 1, count_include_pad=False)
    return ((x + 1) * gain - 1).clamp(-1, 1)


def mirrored(x: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Half of the pictures (n, 3, h, w) and their labels (n, h, w), left for right."""
    mirror = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirror[:, None, None, None], x.flip(3), x), torch.where(
        mirror[:, None, None], labels.flip(2), labels
    )


def smudged(x: Tensor, skin: Tensor, generator: torch.Generator) -> Tensor:
    """Spots, folds and shadows on the skin that the renderer does not know: what lies on skin is not a beard yet.

    x: (n, 3, side, side); skin: (n, side, side).
    """
    n, side = x.shape[0], x.shape[2] // COARSER
    small = skin[:, ::COARSER, ::COARSER].float()
    down, across = small.sum(2), small.sum(1)  # (n, side) each
    y0, x0 = (torch.multinomial(mass + 1e-6, SMUDGES, True, generator=generator) for mass in (down, across))
    angle = 0.4 * torch.randn(n, SMUDGES, generator=generator)
    wide, high = (side * (torch.rand(n, SMUDGES, generator=generator) * span + 0.013) for span in (0.1, 0.036))
    colour = torch.tensor([-0.4, -0.6, -0.65]) + 0.4 * torch.randn(n, SMUDGES, 3, generator=generator)
    strength = torch.rand(n, SMUDGES, generator=generator) * (torch.rand(n, SMUDGES, generator=generator) < 0.4)
    places = torch.arange(side, dtype=torch.float32)
    paint, clear = torch.zeros(n, 3, side, side), torch.ones(n, 1, side, side)  # what is added, and what shines through
    for k in range(SMUDGES):
        v, u = places[:, None] - y0[:, k, None, None], places - x0[:, k, None, None]
        cos, sin = angle[:, k, None, None].cos(), angle[:, k, None, None].sin()
        along, away = (u * cos + v * sin) / wide[:, k, None, None], (v * cos - u * sin) / high[:, k, None, None]
        share = (strength[:, k, None, None] * torch.exp(-(along**2) - away**2))[:, None]
        paint = paint + share * (colour[:, k, :, None, None] - paint)
        clear = clear * (1 - share)
    both = F.interpolate(torch.cat([paint, clear], 1), scale_factor=float(COARSER)) * skin[:, None]
    return x * (both[:, 3:] + ~skin[:, None]) + both[:, :3]


def surrounded(x: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """A third of the pictures with what lies behind and below in the colour of hair or skin: a brown wall is no hair.

    x: (n, 3, side, side); labels: (n, side, side).
    """
    n, side = x.shape[0], x.shape[2]
    chosen, of_hair = torch.rand(2, n, generator=generator) < torch.tensor([[0.33], [0.7]])
    own = (labels == torch.where(of_hair, HAIR, SKIN)[:, None, None])[:, None].float()
    colour = (x * own).sum((2, 3)) / own.sum((2, 3)).clamp(min=1)
    chosen = chosen & (own.mean((1, 2, 3)) > LEAST_OWN)
    light = 0.35 * torch.randn(n, 1, 1, 1, generator=generator) + 0.1 * torch.randn(n, 3, 1, 1, generator=generator)
    uneven = 0.25 * torch.rand(n, 1, 1, 1, generator=generator) * torch.randn(n, 1, 5, 5, generator=generator)
    light = light + F.interpolate(uneven, size=(side, side), mode="bilinear")
    wall: Tensor = (colour[:, :, None, None] + 1) * torch.exp(light) - 1
    opaque = 0.6 + 0.4 * torch.rand(n, 1, 1, 1, generator=generator)
    behind = F.avg_pool2d((labels == BACKGROUND)[:, None].float(), 3, 1, 1, count_include_pad=False)
    return torch.lerp(x, wall, chosen[:, None, None, None] * opaque * behind)


def recoloured(x: Tensor, generator: torch.Generator) -> Tensor:
    """What the parser sees of half of the pictures: channels mixed anew, other contrast; the shapes stay."""
    n = x.shape[0]
    mix = torch.eye(3) + 0.25 * torch.randn(n, 3, 3, generator=generator)
    contrast = torch.exp(0.3 * torch.randn(n, 1, 1, 1, generator=generator))
    other = torch.einsum("nij,njhw->nihw", mix, x) * contrast + 0.15 * torch.randn(n, 3, 1, 1, generator=generator)
    chosen = (torch.rand(n, generator=generator) < 0.5)[:, None, None, None]
    return torch.where(chosen, other.clamp(-1.5, 1.5), x)

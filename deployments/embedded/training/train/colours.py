"""The colours of a face's parts: those that most of a part's pixels have."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from deployments.embedded.training.renderer.appearance import LAB_RANGES
from deployments.embedded.training.renderer.parts import BEARD, HAIR, SKIN

BEARD_EDGE = 10.0  # how sharply a beard's colour is told from the skin's
LIT_SIDE = 0.8, 0.15  # of skin, and of other parts: how much brighter than the mean its colour is sought, in deviations
LIKE = 0.12  # of the range of colours: how far apart two are that still count as one part's
SETTLED = 3  # rounds of mean shift after which the colour of a part moves no more
NUMBERS = 8  # that `part_colours` tells of a part
RGB_TO_XYZ = (  # of sRGB, rows divided by the white of D65
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)


def believed(x: Tensor, parts: Tensor) -> Tensor:
    """A beard is one where its colour is nearer to the hair's than to the skin's; else it is a mouth or a shadow.

    Where little hair is seen, a dark colour stands in for the hair's.
    """
    colours, pixels = part_colours(x, parts[:, :BEARD]), pooled(x, parts)  # BEARD is the last of the three
    skin, hair, sure = colours[:, SKIN - 1, 3:6], colours[:, HAIR - 1, 3:6], colours[:, HAIR - 1, 6:7]
    hair = sure * hair + (1 - sure) * (0.35 * skin - 0.65)
    way = (hair - skin)[:, :, None, None]
    along = ((pixels - skin[:, :, None, None]) * way).sum(1) / (way**2).sum(1).clamp(min=0.02)
    beard = parts[:, BEARD - 1] * torch.sigmoid(BEARD_EDGE * (along - 0.5))
    others = list(parts.unbind(1))
    others[SKIN - 1], others[BEARD - 1] = parts[:, SKIN - 1] + parts[:, BEARD - 1] - beard, beard
    return torch.stack(others, 1)


def pooled(x: Tensor, parts: Tensor) -> Tensor:
    """Pixels (n, 3, h, w) -> their mean in each cell of the parts (n, 3, cells down, cells across)."""
    return F.avg_pool2d(x, x.shape[2] // parts.shape[2])


def part_colours(x: Tensor, parts: Tensor) -> Tensor:
    """(n, parts, 8): mean colour of each part, that of most of it, how sure that is, its share of the picture.

    A part that is not there has the colour 0, a middle grey.
    """
    pixels = pooled(x, parts).flatten(2).transpose(1, 2)  # (n, cells, 3)
    share = parts.flatten(2)
    sure = share * torch.sigmoid(16 * (share - 0.8))
    there = sure.sum(2, keepdim=True)
    colours = [weighted(share, pixels), typical_colour(sure, pixels)]
    return torch.cat([*colours, there / (there + 2.0), share.mean(2, keepdim=True) * 4], 2)


def weighted(weight: Tensor, values: Tensor) -> Tensor:
    """(n, parts, cells) and (n, cells, 3) -> the means, (n, parts, 3)."""
    return weight @ values / (weight.sum(2, keepdim=True) + 1e-3)


def typical_colour(sure: Tensor, pixels: Tensor) -> Tensor:
    """(n, parts, 3): the colour that most of a part has, by mean shift (Comaniciu and Meer 2002).

    What a parser takes along by mistake, what is gloss and what is deep shade lies far from it and does not count. The
    search starts on the lit side, whose colour is the one that people name.
    """
    light = pixels.mean(2)[:, None]  # (n, 1, cells)
    total = sure.sum(2, keepdim=True) + 1e-3
    middle = (sure * light).sum(2, keepdim=True) / total
    spread = ((sure * (light - middle) ** 2).sum(2, keepdim=True) / total + 4e-4).sqrt()
    lit = [LIT_SIDE[0] if part == SKIN else LIT_SIDE[1] for part in range(1, sure.shape[1] + 1)]
    away = (light - middle) / spread - light.new_tensor(lit)[:, None]
    colour = weighted(sure * torch.exp(-2 * away**2), pixels)
    squares, across = (pixels**2).sum(2)[:, None], pixels.transpose(1, 2)
    for _ in range(SETTLED):
        apart = squares - 2 * colour @ across + (colour**2).sum(2, keepdim=True)  # (n, parts, cells), squared
        colour = weighted(sure * torch.exp(-apart / (2 * LIKE**2)), pixels)
    return colour


def lab(colour: Tensor) -> Tensor:
    """(n, 3) sRGB in -1..1 -> CIE Lab under D65."""
    rgb = ((colour + 1) / 2).clamp(1e-4, 1.0)
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = linear @ linear.new_tensor(RGB_TO_XYZ).T
    f = torch.where(xyz > 0.008856, xyz.clamp(min=1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    fx, fy, fz = f.chunk(3, 1)
    return torch.cat([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], 1)


def lab_places(colour: Tensor) -> list[Tensor]:
    """L, a and b, each as its place in `appearance.LAB_RANGES`, (n, 1)."""
    spans = zip(colour.chunk(3, 1), LAB_RANGES, strict=True)
    return [((value - low) / (high - low)).clamp(0, 1) for value, (low, high) in spans]

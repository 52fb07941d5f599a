"""Trains the face detector on drawn heads in scenes: a heatmap of faces at any angle, with box, turn and landmarks.

A centre-point detector (Zhou, Wang and Krähenbühl 2019) of one map, at an eighth of the picture's size.
"""

import math
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from deployments.embedded.training.data.faces import FaceSet
from deployments.embedded.training.train.augment import recoloured
from deployments.embedded.training.train.checkpoint import Length, restored, save
from deployments.embedded.training.train.optimiser import MatrixOptimiser
from deployments.embedded.training.train.precision import autocast

STRIDE = 8  # pixels of a cell
UNIT = 32.0  # pixels: sides are told as the logarithm of so many
MAPS = 16  # of the output: score, side, place of the middle (2), turn (2), landmarks (10)
SHARP = 0.12  # deviation of the heat about a middle, of the face's side
LEARNT = 0.5  # cells that are so hot learn box, turn and landmarks
NEAREST = 0.25  # less than the heat of the cell nearest to a middle that lies on the picture
CROP = 192  # pixels of the part of a picture that half of the batches show; the others show the whole, half as large
TINY = 14.0  # pixels: a smaller face is neither to be found nor wrong to find
MATRIX_RATE, OTHER_RATE = 3e-3, 2e-3
SAVE_EVERY = 200  # steps
RELOAD_EVERY = 100  # steps: while pictures are still being drawn
PLACE_SHARE = 1.0


def block(inward: int, outward: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """A convolution, normalised over the batch, and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inward, outward, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outward), nn.ReLU()
    )


class Residual(nn.Module):
    """Two convolutions beside a short cut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            block(width, width), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) -> the same shape."""
        return F.relu(x + self.body(x))


class FaceFinder(nn.Module):
    """(n, 3, h, w) RGB in -1..1, h and w multiples of 32 -> (n, MAPS, h / 8, w / 8).

    Scores are probabilities; lengths are in units of the side, which is told as the logarithm over UNIT pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(block(3, 16, 2), block(16, 32, 2), block(32, 48, 2), Residual(48))
        self.middle = nn.Sequential(block(48, 80, 2), Residual(80))
        self.coarse = nn.Sequential(block(80, 112, 2), Residual(112))
        self.from_coarse, self.from_middle = nn.Conv2d(112, 64, 1), nn.Conv2d(80, 64, 1)
        self.from_fine = nn.Conv2d(48, 64, 1)
        self.merge = block(64, 64)
        self.conv_out = nn.Conv2d(64, MAPS, 1)
        nn.init.constant_(self.conv_out.bias[:1], -4.0)  # type: ignore[index]

    def logits(self, x: Tensor) -> Tensor:
        """As `forward`, the score before its sigmoid."""
        fine = self.fine(x)
        middle = self.middle(fine)
        merged = F.interpolate(self.from_coarse(self.coarse(middle)), scale_factor=2.0) + self.from_middle(middle)
        merged = F.interpolate(F.relu(merged), scale_factor=2.0) + self.from_fine(fine)
        out: Tensor = self.conv_out(self.merge(F.relu(merged)))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """The maps."""
        out = self.logits(x)
        return torch.cat([torch.sigmoid(out[:, :1]), out[:, 1:]], 1)


def turned(faces: Tensor, side: int, quarters: int, mirror: bool) -> Tensor:
    """(n, faces, 14) of pictures of `side` pixels, after `torch.rot90` of so many quarters and then a flip."""
    faces = faces.clone()
    points = torch.cat([faces[..., :2], faces[..., 4:]], -1).reshape(*faces.shape[:-1], 6, 2)
    turn = faces[..., 3]
    for _ in range(quarters):  # anticlockwise, as rot90 of rows and columns is
        points = torch.stack([points[..., 1], side - points[..., 0]], -1)
        turn = turn - math.pi / 2
    if mirror:
        points = torch.stack([side - points[..., 0], points[..., 1]], -1)[..., [0, 2, 1, 3, 5, 4], :]
        turn = -turn
    flat = points.flatten(-2)
    return torch.cat([flat[..., :2], faces[..., 2:3], turn[..., None], flat[..., 2:]], -1)


def targets(faces: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of (n, faces, 14) in pixels: heat (n, cells, cells), the maps after it, and how much each cell learns of them."""
    at = (torch.arange(cells) + 0.5) * STRIDE
    there = ~faces[..., 0].isnan()
    faces = faces.nan_to_num(1.0)
    dx = (faces[..., 0, None, None] - at) / faces[..., 2, None, None]  # (n, faces, 1, cells)
    dy = (faces[..., 1, None, None] - at[:, None]) / faces[..., 2, None, None]
    far = (dx**2 + dy**2) * there[..., None, None] + 1e6 * ~there[..., None, None]
    wide = torch.maximum(torch.full_like(faces[..., 2], SHARP), 0.45 * STRIDE / faces[..., 2])
    heat = torch.exp(-far / (2 * wide[..., None, None] ** 2))  # (n, faces, cells, cells)
    highest, owner = heat.max(1)
    # The hottest cell of each face is wholly its own.
    large = there & (faces[..., 2] >= TINY)
    peak = (heat >= heat.amax((2, 3), keepdim=True) - 1e-6) & (heat > NEAREST) & large[..., None, None]
    highest = torch.where(peak.any(1), 1.0, highest)
    chosen = torch.gather(faces, 1, owner.flatten(1)[..., None].expand(-1, -1, 14)).reshape(-1, cells, cells, 14)
    side = chosen[..., 2:3]
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)  # (cells, cells, 2): x, y
    middle = (chosen[..., :2] - grid) / side
    points = ((chosen[..., 4:].reshape(-1, cells, cells, 5, 2) - grid[..., None, :]) / side[..., None]).flatten(-2)
    turn = torch.stack([chosen[..., 3].cos(), chosen[..., 3].sin()], -1)
    maps = torch.cat([(side / UNIT).log(), middle, turn, points], -1).permute(0, 3, 1, 2)
    learnt = highest * (highest >= LEARNT) * torch.gather(large, 1, owner.flatten(1)).reshape(-1, cells, cells)
    return highest, maps, learnt[:, None]


def finder_loss(out: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Focal loss of the heat (Law and Deng 2018), and the distance of all else where faces are."""
    heat, maps, weight = targets(faces, out.shape[2])
    score = out[:, 0]
    own = (heat >= 0.999) & (weight[:, 0] > 0)
    hit = F.softplus(-score) * torch.sigmoid(-score) ** 2 * own
    miss = F.softplus(score) * torch.sigmoid(score) ** 2 * (1 - heat) ** 4 * ~own
    count = own.sum().clamp(min=1)
    apart = F.smooth_l1_loss(out[:, 1:], maps, reduction="none", beta=0.05)
    scale = out.new_tensor([1.0, *[2.0] * 2, *[1.5] * 2, *[1.0] * 10])[:, None, None]
    return (hit + miss).sum() / count, (apart * scale * weight).sum() / weight.sum().clamp(min=1)


def as_batch(
    pictures: NDArray[np.uint8], faces: NDArray[np.float32], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A batch in -1..1, cropped or halved, turned by quarters, mirrored, in other colours; and its faces."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    told = torch.from_numpy(faces)
    quarters, mirror, halved = (int(torch.randint(n, (1,), generator=generator)) for n in (4, 2, 2))
    left, top = (int(torch.randint(pictures.shape[1] - CROP + 1, (1,), generator=generator)) for _ in range(2))
    if halved:
        x = F.avg_pool2d(x.float(), 2)
        told = torch.cat([told[..., :3] / 2, told[..., 3:4], told[..., 4:] / 2], -1)
    else:
        x = x[:, :, top : top + CROP, left : left + CROP].float()
        moved = torch.tensor([left, top], dtype=torch.float32)
        told = torch.cat([told[..., :2] - moved, told[..., 2:4], told[..., 4:] - moved.repeat(5)], -1)
    x = torch.rot90(x / 127.5 - 1, quarters, (2, 3))
    told = turned(told, x.shape[2], quarters, bool(mirror))
    return recoloured(x.flip(3) if mirror else x, generator).clamp(-1, 1), told


def train_finder(folder: Path, length: Length, seed: int, checkpoint: Path, batch: int = 32) -> FaceFinder:
    """Trains on what `draw_face_set` has drawn so far, from the checkpoint where there is one."""
    torch.manual_seed(seed)
    network = FaceFinder()
    optimiser = MatrixOptimiser(network, MATRIX_RATE, OTHER_RATE)
    (step, before), start = restored(checkpoint, network, optimiser), time.monotonic()
    rng, generator = np.random.default_rng((seed, step)), torch.Generator().manual_seed(seed + step)
    data, shown = FaceSet.load(folder), [0.0, 0.0]
    with tqdm(desc="finder", initial=step, mininterval=20) as bar:
        while length.done(step, seconds := before + time.monotonic() - start) < 1:
            if step % RELOAD_EVERY == 0:
                data = FaceSet.load(folder)
            pictures, faces = data.batch(rng.integers(len(data), size=batch))
            x, told = as_batch(pictures, faces, generator)
            with autocast():
                out = network.logits(x.contiguous(memory_format=torch.channels_last))
            heat, rest = finder_loss(out.float(), told)
            torch.autograd.backward(heat + PLACE_SHARE * rest)
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step(length.rate(step, seconds))
            step += 1
            shown = [a + 0.02 * (float(b.detach()) - a) for a, b in zip(shown, (heat, rest), strict=True)]
            bar.update()
            bar.set_postfix(heat=f"{shown[0]:.3f}", rest=f"{shown[1]:.3f}", data=len(data), refresh=False)
            if step % SAVE_EVERY == 0:
                save(checkpoint, network, optimiser, step, seconds)
    save(checkpoint, network, optimiser, step, before + time.monotonic() - start)
    return network.eval()

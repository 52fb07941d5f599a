"""Trains the judge of likeness: whether an avatar shows the person of a photo.

It is another network than the encoder, which the generator draws from: a trait that the encoder misreads is drawn as
it was misread, and only one who looks again at the photo can tell. Photo and avatar of a person are drawn together,
those of others apart (CLIP's loss, Radford et al. 2021); half of the batches have people of one gender, age and skin.
"""

import math
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from deployments.embedded.training.renderer.appearance import lab
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.train.augment import jittered
from deployments.embedded.training.train.checkpoint import Length, restored, save
from deployments.embedded.training.train.face import DRAWINGS, as_input
from deployments.embedded.training.train.optimiser import MatrixOptimiser
from deployments.embedded.training.train.precision import autocast

WIDTH = 128  # of a vector
WIDTHS = (32, 48, 96, 160)
SKIN_BANDS = (45.0, 65.0)  # L* that part dark, medium and light skin
SHARPEST = 20.0  # factor of cosines in the loss, at most: the sharper, the nearer are own and other
ALIKE = 0.5  # of the batches have people of one band
MATRIX_RATE, OTHER_RATE = 3e-3, 2e-3
SAVE_EVERY = 100  # steps
Band = tuple[str, str, int]


class Stage(nn.Module):
    """(n, before, h, w) -> (n, width, h / 2, w / 2): two convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Conv2d(before, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return F.relu(self.body(x) + self.shortcut(F.avg_pool2d(x, 2)))


class LikenessNet(nn.Module):
    """(n, 3, 192, 192) in -1..1, of a photo or an avatar -> (n, WIDTH), each of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Sequential(
            nn.Conv2d(3, WIDTHS[0], 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()
        )
        self.stages = nn.Sequential(*(Stage(*pair) for pair in pairwise(WIDTHS)))
        self.layout = nn.Sequential(nn.Conv2d(WIDTHS[-1], 24, 1), nn.ReLU(), nn.Flatten())
        self.conv_out = nn.Linear(WIDTHS[-1] + 24 * 36, WIDTH)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return self.of_halved(F.avg_pool2d(x, 2))

    def of_halved(self, x: Tensor) -> Tensor:
        """The same of (n, 3, 96, 96): the means of 2 x 2 pixels."""
        looked = self.stages(self.conv_in(x))
        return F.normalize(self.conv_out(torch.cat([looked.mean((2, 3)), self.layout(looked)], 1)).float(), dim=1)

    def loss(self, photos: Tensor, avatars: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropy of finding a photo's avatar among the others' and the reverse; how often it is found."""
        cosines = photos @ avatars.T
        logits = cosines * self.log_sharpness.exp().clamp(max=SHARPEST)
        own = torch.arange(len(logits))
        found = (cosines.argmax(1) == own).float().mean()
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2, found


def band_of(person: Portrait) -> Band:
    """Gender, age and band of skin: who shares them is told apart by the rest of the face alone."""
    return person.gender, person.age_name, int(np.searchsorted(SKIN_BANDS, lab(person.skin)[0]))


class People:
    """Draws batches of persons: at random, or all of one band."""

    def __init__(self, persons: list[Portrait], size: int) -> None:
        bands = defaultdict(list)
        for index, person in enumerate(persons):
            bands[band_of(person)].append(index)
        self._count, self._size = len(persons), min(size, len(persons))
        self._bands = [np.array(members) for members in bands.values() if len(members) > 1]
        self._shares = np.array([len(members) for members in self._bands], dtype=np.float64)

    def __call__(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Sorted indices, each once; of a small band fewer than of others."""
        people = np.arange(self._count)
        if self._bands and rng.random() < ALIKE:
            people = self._bands[rng.choice(len(self._bands), p=self._shares / self._shares.sum())]
        return np.sort(rng.choice(people, min(self._size, len(people)), replace=False))


def train_likeness(
    photos: NDArray[np.uint8], persons: list[Portrait], length: Length, seed: int, checkpoint: Path, batch: int = 64
) -> LikenessNet:
    """On the face encoder's set, a photo and the avatar of each; goes on from the checkpoint where there is one."""
    torch.manual_seed(seed)
    network, people, shots = LikenessNet(), People(persons, batch), photos.shape[1] - DRAWINGS
    optimiser = MatrixOptimiser(network, MATRIX_RATE, OTHER_RATE)
    step, before = restored(checkpoint, network, optimiser)
    rng, generator = np.random.default_rng((seed, step)), torch.Generator().manual_seed(seed + step)
    start, seconds, shown = time.monotonic(), before, [0.0, 0.0]
    with tqdm(desc="likeness", initial=step, mininterval=20) as bar:
        while length.done(step, seconds := before + time.monotonic() - start) < 1:
            index = people(rng)
            crops = np.concatenate([photos[index, int(rng.integers(shots))], photos[index, -1]])
            x = jittered(F.avg_pool2d(as_input(crops), 2), generator)
            mirror = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
            with autocast():
                x = torch.where(mirror, x.flip(3), x).contiguous(memory_format=torch.channels_last)
                vectors = network.of_halved(x)
            loss, found = network.loss(*vectors.chunk(2))
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(network.parameters(), 3.0)
            optimiser.step(length.rate(step, seconds))
            step += 1
            shown = [a + 0.02 * (float(b.detach()) - a) for a, b in zip(shown, (loss, found), strict=True)]
            bar.update()
            bar.set_postfix(loss=f"{shown[0]:.3f}", found=f"{shown[1]:.2f}", refresh=False)
            if step % SAVE_EVERY == 0:
                save(checkpoint, network, optimiser, step, seconds)
    save(checkpoint, network, optimiser, step, seconds)
    return network.eval()

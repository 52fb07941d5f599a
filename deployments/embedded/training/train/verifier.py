"""Trains the second look: whether a level square shows an upright face, and where in it the face is.

Its negatives are what finder or cascade take for a face and is none, faces that are not upright, and other things.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from deployments.embedded.training.data.faces import CANVAS, FaceSet
from deployments.embedded.training.train.augment import recoloured
from deployments.embedded.training.train.checkpoint import Length, restored, save
from deployments.embedded.training.train.detector import MAPS, FaceFinder, Residual, block
from deployments.embedded.training.train.optimiser import MatrixOptimiser
from deployments.embedded.training.train.precision import autocast
from deployments.face.cascade import Scan, proposals
from deployments.face.detection import Candidate
from deployments.face.finder import LOOK_REACH, LOOK_SIDE, finder_input, peaks
from deployments.face.upright import Pyramid, level_square, wrapped

UPRIGHT = math.radians(24)  # so far from level a face is still one to find
WRONG_WAY = math.radians(42)  # from here on it is none
DOUBTED = 0.1  # the finder's score from which its mistakes are taken
MINED = 2000  # pictures that the finder is tried on
MATRIX_RATE, OTHER_RATE = 3e-3, 2e-3
Squares = NDArray[np.float32]  # (n, 5): picture, middle x and y, side, turn


class FaceVerifier(nn.Module):
    """(n, 3, 64, 64) of mean 0 and deviation 1 -> (n, MAPS): logit, then as the maps of the finder, but side third."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            block(3, 24, 2), block(24, 40, 2), Residual(40), block(40, 64, 2), Residual(64), block(64, 96, 2),
        )  # fmt: skip
        self.conv_out = nn.Sequential(
            nn.Flatten(), nn.Linear(96 * 16, 96), nn.ReLU(), nn.Dropout(0.1), nn.Linear(96, MAPS)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The numbers of `read_look`."""
        out: Tensor = self.conv_out(self.look(x))
        return out


@torch.no_grad()
def mistakes(finder: FaceFinder, data: FaceSet, count: int, rng: np.random.Generator) -> Squares:
    """What finder and cascade take for faces on `count` of the pictures, and is none, or is turned another way."""
    wrong = []
    for picture in tqdm(rng.choice(len(data), size=min(count, len(data)), replace=False), "mining", mininterval=20):
        pixels, faces = data.batch(np.array([picture]))
        maps = finder(torch.from_numpy(finder_input(pixels[0])))[0].numpy()
        found = [*peaks(maps, DOUBTED), *proposals(Pyramid(Image.fromarray(pixels[0])), Scan("luminance", CANVAS))]
        wrong += [
            (picture, one.x, one.y, one.side, one.turn)
            for one in found
            if one.side < CANVAS and not any(is_it(one, face) for face in faces[0])
        ]
    return np.array(wrong, dtype=np.float32).reshape(-1, 5)


def is_it(found: Candidate, face: NDArray[np.float32]) -> bool:
    """Whether a find is near a face's place, turned about as it is."""
    away = math.hypot(found.x - face[0], found.y - face[1])
    return away < 0.5 * face[2] and abs(wrapped(found.turn - float(face[3]))) < WRONG_WAY


def examples(data: FaceSet, wrong: Squares, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Crops (size, 3, 64, 64), their labels (size,), and for faces what `read_look` reads, (size, MAPS - 1)."""
    crops, labels, told = [], [], []
    for square, picture, label, numbers in drawn_examples(data, wrong, rng):
        crop = level_square(Image.fromarray(picture), square.middle, square.side * LOOK_REACH, square.turn, LOOK_SIDE)
        crops.append(np.asarray(crop))
        labels.append(label)
        told.append(numbers)
        if len(crops) == size:
            break
    x = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float()
    return x, torch.tensor(labels, dtype=torch.float32), torch.from_numpy(np.stack(told))


def drawn_examples(
    data: FaceSet, wrong: Squares, rng: np.random.Generator
) -> Iterator[tuple[Candidate, NDArray[np.uint8], float, NDArray[np.float32]]]:
    """Endless: a square, its picture, 1 or 0, and the numbers."""
    nothing = np.zeros(MAPS - 1, dtype=np.float32)
    while True:
        index = int(rng.integers(len(data)))
        if len(wrong) and rng.random() < 0.35:
            found = wrong[rng.integers(len(wrong))]
            (picture,), _ = data.batch(found[:1].astype(np.int64))
            yield jittered(found[1:], rng, 0.1), picture, 0.0, nothing
            continue
        (picture,), (faces,) = data.batch(np.array([index]))
        there = faces[~np.isnan(faces[:, 0])]
        if not len(there):
            side = math.exp(rng.uniform(math.log(16), math.log(CANVAS)))
            yield (
                Candidate(rng.uniform(0, CANVAS), rng.uniform(0, CANVAS), side, rng.uniform(-math.pi, math.pi), 0.0),
                picture,
                0.0,
                nothing,
            )
            continue
        face = there[rng.integers(len(there))]
        square = jittered(face[:4], rng, UPRIGHT)
        if rng.random() < 0.3:
            away = rng.uniform(WRONG_WAY, 2 * math.pi - WRONG_WAY)
            yield Candidate(square.x, square.y, square.side, float(face[3]) + away, 0.0), picture, 0.0, nothing
        else:
            yield square, picture, 1.0, numbers_of(face, square)


def jittered(face: NDArray[np.float32], rng: np.random.Generator, turn: float) -> Candidate:
    """A square about a face as the finder may give it."""
    x, y, side, angle = (float(value) for value in face)
    x, y = x + rng.normal(0, 0.08) * side, y + rng.normal(0, 0.08) * side
    return Candidate(x, y, side * math.exp(rng.normal(0, 0.15)), angle + rng.uniform(-turn, turn), 0.0)


def numbers_of(face: NDArray[np.float32], square: Candidate) -> NDArray[np.float32]:
    """(MAPS - 1,): where in a square its face is, as `read_look` undoes it."""
    cos, sin = math.cos(square.turn), math.sin(square.turn)
    points = np.concatenate([face[:2], face[4:]]).reshape(6, 2)
    level = (points - square.middle) @ np.array([[cos, -sin], [sin, cos]]) / square.side
    turn = float(face[3]) - square.turn
    side = math.log(float(face[2]) / square.side)
    return np.array([*level[0], side, math.cos(turn), math.sin(turn), *level[1:].ravel()], dtype=np.float32)


def as_looks(x: Tensor, generator: torch.Generator) -> Tensor:
    """In other colours, blurred at times, then as `verifier_input` does."""
    x = recoloured(x / 127.5 - 1, generator).clamp(-1, 1)
    if torch.rand(1, generator=generator) < 0.3:
        small = (20, 28, 40)[int(torch.randint(3, (1,), generator=generator))]
        x = F.interpolate(F.interpolate(x, size=(small, small), mode="area"), size=x.shape[2:], mode="bilinear")
    x = x + 0.05 * torch.rand(len(x), 1, 1, 1, generator=generator) * torch.randn(x.shape, generator=generator)
    x = (x + 1) * 127.5
    return (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 4.0)


def verifier_loss(out: Tensor, labels: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy, and the distance of the numbers where there is a face."""
    apart = F.smooth_l1_loss(out[:, 1:], told, reduction="none", beta=0.05).sum(1)
    return F.binary_cross_entropy_with_logits(out[:, 0], labels), (apart * labels).sum() / labels.sum().clamp(min=1)


def train_verifier(
    finder: FaceFinder, folder: Path, length: Length, seed: int, checkpoint: Path, batch: int = 96
) -> FaceVerifier:
    """Trains on the finder's pictures and mistakes, from the checkpoint where there is one; mining is not counted."""
    torch.manual_seed(seed)
    data, network = FaceSet.load(folder), FaceVerifier()
    optimiser = MatrixOptimiser(network, MATRIX_RATE, OTHER_RATE)
    step, before = restored(checkpoint, network, optimiser)
    rng, generator = np.random.default_rng((seed, step)), torch.Generator().manual_seed(seed + step)
    wrong = mistakes(finder, data, MINED, rng)
    start, seconds, shown = time.monotonic(), before, [0.0, 0.0]
    with tqdm(desc="verifier", initial=step, mininterval=20) as bar:
        while length.done(step, seconds := before + time.monotonic() - start) < 1:
            x, labels, told = examples(data, wrong, batch, rng)
            with autocast():
                out = network(as_looks(x, generator).contiguous(memory_format=torch.channels_last))
            sure, place = verifier_loss(out.float(), labels, told)
            torch.autograd.backward(sure + place)
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step(length.rate(step, seconds))
            step += 1
            shown = [a + 0.02 * (float(b.detach()) - a) for a, b in zip(shown, (sure, place), strict=True)]
            bar.update()
            bar.set_postfix(sure=f"{shown[0]:.3f}", place=f"{shown[1]:.3f}", mined=len(wrong), refresh=False)
    save(checkpoint, network, optimiser, step, seconds)
    return network.eval()

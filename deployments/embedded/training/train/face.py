"""Trains the face encoder on rendered photos and avatars: the parts of a face and the traits of its person."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from deployments.embedded.training.renderer.appearance import TRAITS, Choice, Scale, traits_of
from deployments.embedded.training.renderer.flat.simplified import simplified
from deployments.embedded.training.renderer.parts import BEARD, BROW, FRAME, IRIS, PARTS, SCLERA, SKIN
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.train.augment import jittered, mirrored, recoloured, smudged, surrounded
from deployments.embedded.training.train.certainty import Reading, embedded
from deployments.embedded.training.train.checkpoint import Length, restored, save
from deployments.embedded.training.train.face_encoder import FaceEncoder
from deployments.embedded.training.train.optimiser import MatrixOptimiser
from deployments.embedded.training.train.parsers import CELLS, EYE_CELLS, eye_strip, shares
from deployments.embedded.training.train.precision import autocast
from deployments.embedded.training.train.together import Together
from deployments.face.alignment import encoder_input

PART_WEIGHTS = {FRAME: 3.0, BEARD: 1.5, IRIS: 2.0, SCLERA: 2.0, BROW: 1.5}
MATRIX_RATE, OTHER_RATE = 3e-3, 2e-3
PARTS_SHARE = 2.0  # of the loss of parts against that of traits
SAME_SHARE = 1.0  # of that of one person read in two ways
LEAST_WEIGHT = 0.5  # of a trait in the loss: what the code tells quietly is learned as well
DOUBT_SHARE = 0.15  # of a scale's deviation against its place
SAVE_EVERY = 100  # steps
DRAWINGS = 2  # of a person's views, the last ones: a flat drawing, then an avatar
UNKNOWN = -1.0  # in place of a trait that a person does not have


def targets_of(person: Portrait) -> NDArray[np.float32]:
    """(traits,): 0..1 along a scale, the number of a choice's option, or UNKNOWN."""
    return np.array(
        [target(trait, told) for trait, told in zip(TRAITS.values(), traits_of(person).values(), strict=True)],
        dtype=np.float32,
    )


def target(trait: Scale | Choice, told: Any) -> float:
    """One of `targets_of`; a value beyond its scale counts as the scale's end, None is UNKNOWN."""
    if told is None:
        return UNKNOWN
    if isinstance(trait, Choice):
        return float(trait.options.index(told))
    return float(np.clip((told - trait.low) / (trait.high - trait.low), 0, 1))


def view_targets(persons: list[Portrait], views: int) -> Tensor:
    """(persons, views, traits): the flat drawing, the last view but one, shows the nearest options that it has."""
    targets = np.stack([[targets_of(person)] * views for person in persons])
    targets[:, -DRAWINGS] = [targets_of(simplified(person)) for person in persons]
    return torch.from_numpy(targets)


def as_input(crops: NDArray[np.uint8]) -> Tensor:
    """(n, side, side, 3 or 4) -> (n, 3, side, side) in -1..1; labels, where there are any, are left out."""
    return torch.from_numpy(encoder_input(crops[..., :3]))


def as_parts(labels: Tensor, down: int, across: int) -> Tensor:
    """(n, h, w) -> (n, PARTS, down, across): the share of each part in each cell, none where it is untold."""
    n, height, width = labels.shape
    rows, columns = torch.arange(height) * down // height, torch.arange(width) * across // width
    cells = torch.arange(n)[:, None, None] * (down * across) + (rows[:, None] * across + columns)
    told = torch.bincount(
        (cells * (PARTS + 1) + labels.clamp(max=PARTS)).flatten(), minlength=n * down * across * (PARTS + 1)
    )
    parts = told.reshape(n, down, across, PARTS + 1)[..., :PARTS].permute(0, 3, 1, 2)
    return parts.float() * (down * across / (height * width))


def traits_loss(told: Reading, targets: Tensor) -> Tensor:
    """Each trait by its weight in the embedding, at least LEAST_WEIGHT.

    Along scales distance and likelihood, of choices cross entropy.
    """
    losses = []
    for (name, trait), wanted in zip(TRAITS.items(), targets.T, strict=True):
        known = (wanted != UNKNOWN).float()
        if isinstance(trait, Choice):
            wrong = 0.5 * F.cross_entropy(told[name], wanted.clamp(min=0).long(), reduction="none")
        else:
            place, deviation = told[name].T
            wrong = 6 * F.smooth_l1_loss(place, wanted, reduction="none", beta=0.05)
            apart = (place.detach() - wanted) / deviation.exp()
            wrong = wrong + DOUBT_SHARE * (apart**2 / 2 + deviation)
        losses.append(max(trait.weight, LEAST_WEIGHT) * (known * wrong).mean())
    return torch.stack(losses).sum()


def parts_loss(logits: Tensor, parts: Tensor) -> Tensor:
    """Cross entropy with the parts' shares; small parts weigh more."""
    weight = torch.tensor([PART_WEIGHTS.get(part, 1.0) for part in range(PARTS)])
    return -(weight[:, None, None] * parts * F.log_softmax(logits, 1)).sum(1).mean()


def same_loss(told: Reading, encoder: FaceEncoder, views: int) -> Tensor:
    """How far the embeddings of one person's views lie from their mean; views of a person follow each other."""
    vectors = embedded(told, encoder.basis).reshape(-1, views, encoder.basis.shape[1])
    return ((vectors - vectors.mean(1, keepdim=True)) ** 2).sum(2).mean()


def losses(
    encoder: FaceEncoder, crops: NDArray[np.uint8], targets: Tensor, views: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Of traits, of parts, and of one person's views; the parsers see the pictures recoloured.

    Traits do not teach the parsers: they would bend the parts of drawings to their use, and lose those of photos.
    """
    x, labels = mirrored(as_input(crops), torch.from_numpy(crops[..., 3]), generator)
    x = surrounded(smudged(x, labels == SKIN, generator), labels, generator)
    x = jittered(x, generator)
    other = recoloured(x, generator)
    with autocast():
        coarse, middle, whole = encoder.whole(other.contiguous(memory_format=torch.channels_last))
        near, eyes = encoder.eyes(eye_strip(other).contiguous(memory_format=torch.channels_last))
    looked, whole, eyes = (coarse.float(), middle.float(), near.float()), whole.float(), eyes.float()
    told = encoder.read(x, looked, shares(whole).detach(), shares(eyes).detach())
    of_parts = parts_loss(whole, as_parts(labels, CELLS, CELLS))
    of_parts = of_parts + parts_loss(eyes, as_parts(eye_strip(labels[:, None])[:, 0], *EYE_CELLS))
    return traits_loss(told, targets), of_parts, same_loss(told, encoder, views)


def train_face_encoder(
    photos: NDArray[np.uint8], persons: list[Portrait], length: Length, seed: int, checkpoint: Path, batch: int = 16
) -> FaceEncoder:
    """From the checkpoint where there is one; `photos`: (persons, views, side, side, 4), crops with their labels.

    The last DRAWINGS of the views are drawings. In each process a batch has `batch` persons: all photos and a drawing.
    """
    torch.manual_seed(seed)
    encoder, views, targets = FaceEncoder(), photos.shape[1], view_targets(persons, photos.shape[1])
    optimiser = MatrixOptimiser(encoder, MATRIX_RATE, OTHER_RATE)
    (step, seconds), together = restored(checkpoint, encoder, optimiser), Together()
    rng = np.random.default_rng((seed, step, together.rank))
    generator, started = torch.Generator().manual_seed(int(rng.integers(1 << 62))), time.monotonic()
    shown: list[float] = []
    with tqdm(desc="face", initial=step, mininterval=20, disable=together.rank > 0) as bar:
        while length.done(step, seconds) < 1:
            index = np.sort(rng.choice(len(persons), min(batch, len(persons)), replace=False))
            chosen = [*range(views - DRAWINGS), int(rng.integers(views - DRAWINGS, views))]
            crops = photos[index][:, chosen].reshape(-1, *photos.shape[2:])
            wanted = targets[index][:, chosen].flatten(0, 1)
            each = losses(encoder, crops, wanted, len(chosen), generator)
            torch.autograd.backward(each[0] + PARTS_SHARE * each[1] + SAME_SHARE * each[2])
            before, started = started, time.monotonic()
            seconds = together.average(encoder, seconds + started - before)
            nn.utils.clip_grad_norm_(encoder.parameters(), 3.0)
            optimiser.step(length.rate(step, seconds))
            step += 1
            now = [float(loss.detach()) for loss in each]
            shown = [a + 0.02 * (b - a) for a, b in zip(shown or now, now, strict=True)]
            bar.update()
            bar.set_postfix(traits=f"{shown[0]:.3f}", parts=f"{shown[1]:.3f}", same=f"{shown[2]:.3f}", refresh=False)
            if together.rank == 0 and (step % SAVE_EVERY == 0 or length.done(step, seconds) >= 1):
                save(checkpoint, encoder, optimiser, step, seconds)
    return encoder.eval()


@torch.no_grad()
def embed(encoder: FaceEncoder, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Crops (n, side, side, 3 or 4) -> (n, 512), each of length 1, in batches of 64."""
    parts = [encoder(as_input(crops[i : i + 64])) for i in range(0, len(crops), 64)]
    return torch.cat(parts).numpy().astype(np.float32)


def triples_right(embeddings: NDArray[np.float32]) -> float:
    """(faces, views, 512): how often two views of a face are nearer to each other than one is to another face's."""
    faces, views, _ = embeddings.shape
    likeness = np.einsum("iac,jbc->iajb", embeddings, embeddings)
    right = []
    for face in range(faces):
        others = np.delete(likeness[face], face, axis=1).reshape(views, -1)
        for anchor in range(views):
            own = np.delete(likeness[face, anchor, face], anchor)
            right.append((own[:, None] > others[anchor]).mean())
    return float(np.mean(right))

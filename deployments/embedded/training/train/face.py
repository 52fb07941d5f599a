"""Trains the face encoder on rendered photos: the parts of a face and the traits of its person."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from deployments.embedded.training.renderer.appearance import TRAITS, Choice, Scale, traits_of
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.renderer.relight import BEARD, CLASSES, GLASSES, SKIN
from deployments.embedded.training.train.face_encoder import PARSED, FaceEncoder, shares
from deployments.embedded.training.train.optimiser import MatrixOptimiser

PART_WEIGHTS = {GLASSES: 2.0, BEARD: 1.5}
SMUDGES = 4  # on a face, at most
MATRIX_RATE, OTHER_RATE, WARM_STEPS = 3e-3, 2e-3, 60
PARTS_SHARE = 2.0  # of the loss of parts against that of traits
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


def as_input(crops: NDArray[np.uint8]) -> Tensor:
    """(n, 112, 112, 3 or 4) -> (n, 3, 112, 112) in -1..1; labels, where there are any, are left out."""
    return torch.from_numpy(np.array(crops[..., :3])).permute(0, 3, 1, 2).float() / 127.5 - 1


def as_parts(crops: NDArray[np.uint8]) -> Tensor:
    """(n, 112, 112, 4) -> (n, CLASSES, 28, 28): the share of each part in each cell, none where it is untold."""
    n, side = len(crops), crops.shape[1] // PARSED
    cells = crops[..., 3].reshape(n, PARSED, side, PARSED, side)
    return torch.from_numpy(np.stack([(cells == part).mean((2, 4), np.float32) for part in range(CLASSES)], 1))


def jittered(x: Tensor, parts: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Gain, a slope of light and a mirror for each picture, so that a stored view differs from epoch to epoch."""
    n, side = x.shape[0], x.shape[2]
    gain = 1 + 0.07 * torch.randn(n, 1, 1, 1, generator=generator) + 0.02 * torch.randn(n, 3, 1, 1, generator=generator)
    ramp = torch.linspace(-0.12, 0.12, side)
    slope = torch.randn(2, n, 1, 1, 1, generator=generator)
    gain = gain + slope[0] * ramp[:, None] + slope[1] * ramp
    mirror = (torch.rand(n, generator=generator) < 0.5)[:, None, None, None]
    x, parts = torch.where(mirror, x.flip(3), x), torch.where(mirror, parts.flip(3), parts)
    return ((x + 1) * gain - 1).clamp(-1, 1), parts


def smudged(x: Tensor, skin: Tensor, generator: torch.Generator) -> Tensor:
    """Spots, folds and shadows on the skin that the renderer does not know: what lies on skin is not a beard yet."""
    n, side = x.shape[0], x.shape[2]
    down, across = skin.float().sum(2), skin.float().sum(1)  # (n, side) each
    y0, x0 = (torch.multinomial(mass + 1e-6, SMUDGES, True, generator=generator) for mass in (down, across))
    angle = 0.4 * torch.randn(n, SMUDGES, generator=generator)
    wide, high = (torch.rand(n, SMUDGES, generator=generator) * span + 1.5 for span in (11.0, 4.0))
    colour = torch.tensor([-0.4, -0.6, -0.65]) + 0.4 * torch.randn(n, SMUDGES, 3, generator=generator)
    strength = torch.rand(n, SMUDGES, generator=generator) * (torch.rand(n, SMUDGES, generator=generator) < 0.5)
    places = torch.arange(side, dtype=torch.float32)
    for k in range(SMUDGES):
        v, u = places[:, None] - y0[:, k, None, None], places - x0[:, k, None, None]
        cos, sin = angle[:, k, None, None].cos(), angle[:, k, None, None].sin()
        along, away = (u * cos + v * sin) / wide[:, k, None, None], (v * cos - u * sin) / high[:, k, None, None]
        share = strength[:, k, None, None] * torch.exp(-(along**2) - away**2) * skin
        x = x + share[:, None] * (colour[:, k, :, None, None] - x)
    return x


def recoloured(x: Tensor, generator: torch.Generator) -> Tensor:
    """What the parser sees of half of the pictures: channels mixed anew, other contrast; the shapes stay."""
    n = x.shape[0]
    mix = torch.eye(3) + 0.25 * torch.randn(n, 3, 3, generator=generator)
    contrast = torch.exp(0.3 * torch.randn(n, 1, 1, 1, generator=generator))
    other = torch.einsum("nij,njhw->nihw", mix, x) * contrast + 0.15 * torch.randn(n, 3, 1, 1, generator=generator)
    chosen = (torch.rand(n, generator=generator) < 0.5)[:, None, None, None]
    return torch.where(chosen, other.clamp(-1.5, 1.5), x)


def batches(count: int, size: int, steps: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """`steps` batches of `size` sorted indices below `count`; each epoch has a new order, and drops its remainder."""
    order = rng.permutation(count)
    place = 0
    for _ in range(steps):
        if place + size > count:
            order, place = rng.permutation(count), 0
        yield np.sort(order[place : place + size])
        place += size


def traits_loss(told: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Each trait by its weight in the embedding: distance along scales, cross entropy of choices."""
    losses = []
    for (name, trait), wanted in zip(TRAITS.items(), targets.T, strict=True):
        known = (wanted != UNKNOWN).float()
        if isinstance(trait, Choice):
            wrong = 0.5 * F.cross_entropy(told[name], wanted.clamp(min=0).long(), reduction="none")
        else:
            wrong = 6 * F.smooth_l1_loss(told[name][:, 0], wanted, reduction="none", beta=0.05)
        losses.append(trait.weight * (known * wrong).mean())
    return torch.stack(losses).sum()


def parts_loss(logits: Tensor, parts: Tensor) -> Tensor:
    """Cross entropy with the parts' shares; small parts weigh more."""
    weight = torch.ones(CLASSES)
    for part, more in PART_WEIGHTS.items():
        weight[part] = more
    return -(weight[:, None, None] * parts * F.log_softmax(logits, 1)).sum(1).mean()


def losses(
    encoder: FaceEncoder, crops: NDArray[np.uint8], targets: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Of traits and of parts; the parser sees the pictures recoloured, colours are those of the pictures themselves.

    Traits do not teach the parser: it would bend the parts of drawings to their use, and lose those of photos.
    """
    x = smudged(as_input(crops), torch.from_numpy(crops[..., 3] == SKIN), generator)
    x, parts = jittered(x, as_parts(crops), generator)
    with torch.autocast("cpu", torch.bfloat16):
        coarse, parsed = encoder.parse(recoloured(x, generator).to(memory_format=torch.channels_last))
    told = encoder.read(x, coarse.float(), shares(parsed.float()).detach())
    return traits_loss(told, targets), parts_loss(parsed.float(), parts)


def train_face_encoder(
    photos: NDArray[np.uint8], persons: list[Portrait], steps: int, seed: int, batch: int = 96
) -> FaceEncoder:
    """`photos`: (persons, views, 112, 112, 4), crops with their labels."""
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    encoder, views = FaceEncoder(), photos.shape[1]
    targets = torch.from_numpy(np.stack([targets_of(person) for person in persons]))
    optimiser = MatrixOptimiser(encoder, MATRIX_RATE, OTHER_RATE)
    bar = tqdm(batches(len(persons) * views, batch, steps, rng), "face", steps, mininterval=5)
    for step, index in enumerate(bar):
        crops = np.stack([photos[i // views, i % views] for i in index])
        of_traits, of_parts = losses(encoder, crops, targets[index // views], generator)
        torch.autograd.backward(of_traits + PARTS_SHARE * of_parts)
        nn.utils.clip_grad_norm_(encoder.parameters(), 3.0)
        optimiser.step(min((step + 1) / WARM_STEPS, (1 + math.cos(math.pi * step / steps)) / 2))
        bar.set_postfix(traits=f"{of_traits.item():.3f}", parts=f"{of_parts.item():.3f}", refresh=False)
    return encoder.eval()


@torch.no_grad()
def embed(encoder: FaceEncoder, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Crops (n, 112, 112, 3 or 4) -> (n, 512), each of length 1, in batches of 64."""
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

"""Trains the face encoder: views of one person together, persons apart, and appearance readable from the vector."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.color import rgb2lab
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from deployments.embedded.training.networks import FACE_WIDTH, FaceEncoder
from deployments.embedded.training.portrait import Portrait

ATTRIBUTES = 6 + 5  # skin Lab, hair Lab, then hair length, beard, glasses, gender, baldness
TEMPERATURE = 0.15


def attributes(person: Portrait) -> NDArray[np.float32]:
    """About unit scale each."""
    colours = rgb2lab(np.array([[person.skin, person.hair]], dtype=np.float64) / 255)[0] / (25.0, 12.0, 14.0)
    colours[:, 0] -= 2.0
    facts = (
        person.hair_length * 2 - 1,
        person.beard_amount * 2 - 1,
        1.0 if person.glasses != "none" else -1.0,
        1.0 if person.gender == "man" else -1.0,
        1.0 if person.hair_style == "bald" else -1.0,
    )
    return np.concatenate([colours.ravel(), facts]).astype(np.float32)


class Reader(nn.Module):
    """Reads the attributes back from an embedding; used in training and to check, not shipped."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(FACE_WIDTH, 128), nn.GELU(), nn.Linear(128, ATTRIBUTES))

    def forward(self, embedding: Tensor) -> Tensor:
        out: Tensor = self.layers(embedding * FACE_WIDTH**0.5)
        return out


def as_input(crops: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.array(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1


def colour_jitter(x: Tensor, generator: torch.Generator) -> Tensor:
    """A last change of gain for each picture, so that the same stored view differs from epoch to epoch."""
    n = x.shape[0]
    gain = 1 + 0.08 * torch.randn(n, 1, 1, 1, generator=generator) + 0.02 * torch.randn(n, 3, 1, 1, generator=generator)
    flip = torch.rand(n, generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    return ((x + 1) * gain - 1).clamp(-1, 1)


def contrast(first: Tensor, second: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """InfoNCE both ways (van den Oord et al. 2018)."""
    logits = first @ second.T / temperature
    target = torch.arange(len(first))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def batches(count: int, size: int, steps: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    order = rng.permutation(count)
    place = 0
    for _ in range(steps):
        if place + size > count:
            order, place = rng.permutation(count), 0
        yield np.sort(order[place : place + size])
        place += size


def attribute_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Hair colour counts for nothing on a bald head."""
    weight = torch.ones_like(target)
    weight[:, :3] = 2.0
    weight[:, 3:6] = 2.0 * (target[:, 10:11] < 0)
    return (weight * F.smooth_l1_loss(predicted, target, reduction="none", beta=0.3)).mean()


def train_face_encoder(
    photos: NDArray[np.uint8], persons: list[Portrait], steps: int, seed: int, pairs: int = 48
) -> tuple[FaceEncoder, Reader]:
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    encoder, reader = FaceEncoder(), Reader()
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    targets = torch.from_numpy(np.stack([attributes(person) for person in persons]))
    optimiser = torch.optim.AdamW([*encoder.parameters(), *reader.parameters()], lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.08)
    bar = tqdm(batches(len(persons), pairs, steps, rng), "face", steps, mininterval=5)
    for index in bar:
        views = photos[index]
        x = colour_jitter(as_input(np.concatenate([views[:, 0], views[:, 1]])), generator)
        with torch.autocast("cpu", torch.bfloat16):
            embedding = encoder(x.to(memory_format=torch.channels_last)).float()
        first, second = embedding.chunk(2)
        read = reader(embedding)
        loss_read = attribute_loss(read, targets[index].repeat(2, 1))
        loss = loss_read + 0.1 * contrast(first, second)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        bar.set_postfix(read=f"{float(loss_read):.3f}", all=f"{float(loss):.3f}")
    return encoder.eval(), reader.eval()


@torch.no_grad()
def embed(encoder: FaceEncoder, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    parts = [encoder(as_input(crops[i : i + 64])) for i in range(0, len(crops), 64)]
    return torch.cat(parts).numpy().astype(np.float32)


def triples_right(embeddings: NDArray[np.float32]) -> float:
    """(persons, 2, 512): how often a person's second view is nearer than another person's."""
    first, second = embeddings[:, 0], embeddings[:, 1]
    likeness = first @ second.T
    own = np.diag(likeness)[:, None]
    others = ~np.eye(len(first), dtype=bool)
    return float((own > likeness)[others].mean())

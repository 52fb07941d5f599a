"""A judge of avatars: reads the renderer's parameters back from a cartoon, to measure what the generator drew.

It has no part in the service and none in the training of other models. It sees a picture at 64x64, all that the
generator's latents hold, so that it cannot be won over by the decoder's texture.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from deployments.embedded.training.renderer.portrait import (
    AGE_ENDS,
    HAIR_LENGTH,
    Age,
    Beard,
    Clothes,
    Expression,
    Gender,
    Glasses,
    HairStyle,
    Hat,
    Portrait,
    Scene,
)
from deployments.embedded.training.train.precision import autocast

SIDE = 64
HEADS: dict[str, tuple[str | bool, ...]] = {  # attribute of a Portrait -> its values
    "gender": get_args(Gender),
    "glasses": get_args(Glasses),
    "beard": get_args(Beard),
    "hair_style": get_args(HairStyle),
    "hat": get_args(Hat),
    "age_name": get_args(Age),
    "expression": get_args(Expression),
    "winking": (False, True),
    "clothes": get_args(Clothes),
    "scene": get_args(Scene),
}
LOGITS = sum(map(len, HEADS.values()))
LAB_MIDDLE, LAB_UNIT = (50.0, 10.0, 15.0), 20.0
WIDTHS = (24, 48, 80)
AGES_APART = 0.06  # on the scale of a portrait's age
SEEN_APART = 12.0  # CIEDE2000 of a beard and the skin that it is on
Picture = NDArray[np.uint8]
Array = NDArray[np.float64]


def beard_group(beard: str) -> str:
    """Stubble is a tint of the skin, which nobody would call a beard."""
    return "shaven" if beard in ("none", "stubble") else "bearded"


def glasses_group(glasses: str) -> str:
    """Round and square ones are not told apart."""
    return "without" if glasses == "none" else "with"


def hair_group(style: str) -> str:
    """By `HAIR_LENGTH`: below 0.1 bald, below 0.6 short, else long. Raises: KeyError for an unknown style."""
    length = {str(known): length for known, length in HAIR_LENGTH.items()}[style]
    return "bald" if length < 0.1 else "short" if length < 0.6 else "long"


def age_group(age: str) -> str:
    """Three that anybody tells apart at a glance."""
    return age if age in ("child", "old") else "grown"


GROUPS: dict[str, Callable[[str], str]] = {
    "glasses": glasses_group,
    "beard": beard_group,
    "hair_style": hair_group,
    "gender": str,
    "age_name": age_group,
}


def shows_beard(portrait: Portrait) -> bool:
    """Whether anyone could tell: a beard in the skin's own colour is not seen."""
    lab = rgb2lab(np.array([[portrait.skin, portrait.hair]], dtype=np.float64) / 255)[0]
    return beard_group(portrait.beard) == "shaven" or float(deltaE_ciede2000(*lab)) > SEEN_APART


def shows_age(portrait: Portrait) -> bool:
    """Whether anyone could tell a child, a grown and an old person apart: near the ends of two of them nobody could."""
    return all(abs(portrait.age - AGE_ENDS[end]) > AGES_APART for end in ("child", "middle-aged"))


def shows_hair(portrait: Portrait) -> bool:
    """Whether style and colour of the hair can be judged: nothing hides it and there is some."""
    return portrait.hair_style != "bald" and portrait.hat == "none"


@dataclass(frozen=True)
class Readings:
    """What the judge sees in n pictures: how likely every value of a head is, and two colours in CIE Lab."""

    likelihoods: Mapping[str, Array]  # head -> (n, values)
    skin: Array  # (n, 3)
    hair: Array  # (n, 3)

    def groups(self, head: str) -> list[str]:
        """The likeliest group of values in every picture: `bearded`, `without` glasses, `short` hair, a gender."""
        names = [GROUPS[head](str(value)) for value in HEADS[head]]
        groups = sorted(set(names))
        members = np.array([[name == group for group in groups] for name in names], dtype=np.float64)
        return [groups[best] for best in (self.likelihoods[head] @ members).argmax(axis=1)]

    def traits(self) -> Array:
        """(n, traits): what tells persons of one gender apart; a unit is a change that anyone would see."""
        heads = [self.likelihoods[head] for head in ("glasses", "beard", "hair_style", "hat")]
        return np.concatenate([self.skin / 10, self.hair / 15, *heads], axis=1)


class Block(nn.Sequential):
    """Two 3x3 convolutions, the first of stride 2: (n, before, h, w) -> (n, width, h / 2, w / 2)."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )


class JudgeNet(nn.Module):
    """(n, 3, 64, 64) of scaled Lab -> logits (n, LOGITS) and the scaled Lab of skin and hair (n, 6).

    The colours are those of the places that the net takes for skin and hair, with a correction for light.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.near = nn.Sequential(Block(5, first), Block(first, second))
        self.places = nn.Conv2d(second, 2, 1)
        self.far = Block(second, third)
        self.squeeze = nn.Sequential(nn.Conv2d(third, 16, 1), nn.ReLU())
        self.mix = nn.Sequential(nn.Linear(third + 16 * 64 + 6, 128), nn.ReLU())
        self.logits = nn.Linear(128, LOGITS)
        self.correction = nn.Linear(128, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and colours, as the class says; each pixel's place, -1..1, joins its colour as two more channels."""
        line = torch.linspace(-1, 1, SIDE)
        across, down = line.expand(len(x), 1, SIDE, SIDE), line[:, None].expand(len(x), 1, SIDE, SIDE)
        near = self.near(torch.cat([x, across, down], 1))
        places = self.places(near).flatten(2).float().softmax(2)  # (n, 2, 256)
        cells = F.avg_pool2d(x, 4).flatten(2)  # (n, 3, 256)
        colours = torch.einsum("npc,nkc->npk", places, cells).flatten(1)
        far = self.far(near)
        mixed = self.mix(torch.cat([far.mean((2, 3)), self.squeeze(far).flatten(1), colours], 1))
        return self.logits(mixed).float(), colours + self.correction(mixed).float()


def by_head(logits: Tensor) -> dict[str, Tensor]:
    """(n, LOGITS) -> (n, values) of every head."""
    ends = np.cumsum([*map(len, HEADS.values())]).tolist()
    return {head: logits[:, end - len(HEADS[head]) : end] for head, end in zip(HEADS, ends, strict=True)}


def scaled_lab(pictures: Picture) -> Tensor:
    """(n, 64, 64, 3) of bytes -> (n, 3, 64, 64)."""
    lab = (rgb2lab(pictures) - LAB_MIDDLE) / LAB_UNIT
    return torch.from_numpy(lab.astype(np.float32)).permute(0, 3, 1, 2)


def reduced(picture: Picture) -> Picture:
    """(h, w, 3) -> (64, 64, 3), each pixel the mean of those that it covers."""
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.uint8)


class Judge:
    """A trained JudgeNet, which is put into evaluation mode; runs on the CPU."""

    def __init__(self, net: JudgeNet) -> None:
        self._net = net.eval()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises: RuntimeError where the file is of a judge with other values."""
        net = JudgeNet()
        net.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        return cls(net)

    def save(self, path: Path) -> None:
        """At half precision: under 0.6 MB."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.half().contiguous() for name, value in self._net.state_dict().items()}, path)

    @torch.no_grad()
    def read(self, pictures: Sequence[Picture]) -> Readings:
        """Of pictures of any size, (h, w, 3) each."""
        small = np.stack([reduced(picture) for picture in pictures])
        parts = [self._net(scaled_lab(small[i : i + 64])) for i in range(0, len(small), 64)]
        logits, colours = (torch.cat(side) for side in zip(*parts, strict=True))
        chances = {head: part.softmax(1).numpy().astype(np.float64) for head, part in by_head(logits).items()}
        lab = colours.numpy().astype(np.float64).reshape(-1, 2, 3) * LAB_UNIT + LAB_MIDDLE
        return Readings(chances, lab[:, 0], lab[:, 1])


@dataclass(frozen=True)
class Labels:
    """Of n pictures: the index of every head's value (n, heads), scaled Lab of skin and hair (n, 6), hair seen (n,)."""

    values: Tensor
    colours: Tensor
    hair_seen: Tensor

    @classmethod
    def of(cls, portraits: Sequence[Portrait]) -> Self:
        """What the judge should read of the portraits' pictures, in their order."""
        values = [[HEADS[head].index(getattr(person, head)) for head in HEADS] for person in portraits]
        colours = np.array([[person.skin, person.hair] for person in portraits], dtype=np.float64) / 255
        lab = ((rgb2lab(colours) - LAB_MIDDLE) / LAB_UNIT).reshape(-1, 6).astype(np.float32)
        return cls(torch.tensor(values), torch.from_numpy(lab), torch.tensor([*map(shows_hair, portraits)]))

    def __getitem__(self, index: NDArray[np.int64]) -> "Labels":
        return Labels(self.values[index], self.colours[index], self.hair_seen[index])


def judge_loss(logits: Tensor, colours: Tensor, labels: Labels) -> Tensor:
    """What a hat hides and a bald head lacks counts for nothing."""
    seen = labels.hair_seen.float()
    loss = torch.zeros(())
    for number, (head, part) in enumerate(by_head(logits).items()):
        each = F.cross_entropy(part, labels.values[:, number], reduction="none", label_smoothing=0.02)
        loss = loss + (each * (seen if head == "hair_style" else 1.0)).mean()
    apart = F.smooth_l1_loss(colours, labels.colours, reduction="none", beta=0.05)
    return loss + 4 * (apart[:, :3].mean() + (apart[:, 3:] * seen[:, None]).mean())


def disturbed(x: Tensor) -> Tensor:
    """Mirrored, moved, bent, blurred and noisy, as the generator's pictures may be; colours stay."""
    n = len(x)
    turn = torch.zeros(n, 2, 3)
    turn[:, 0, 0] = torch.where(torch.rand(n) < 0.5, 1.0, -1.0) * (1 + 0.04 * torch.randn(n))
    turn[:, 1, 1] = 1 + 0.04 * torch.randn(n)
    turn[:, :, 2] = 0.04 * torch.randn(n, 2)
    bend = F.interpolate(torch.randn(n, 2, 7, 7), size=SIDE, mode="bicubic") * 0.012 * torch.rand(n, 1, 1, 1)
    grid = F.affine_grid(turn, [n, 3, SIDE, SIDE], align_corners=False) + bend.permute(0, 2, 3, 1)
    moved = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    blurred = F.avg_pool2d(F.pad(moved, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mixed = torch.lerp(moved, blurred, torch.rand(n, 1, 1, 1) ** 2)
    return mixed + 0.12 * torch.rand(n, 1, 1, 1) * torch.randn_like(mixed)


def batches(count: int, size: int, steps: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """`steps` batches of `size` sorted indices below `count`; each epoch has a new order, and drops its remainder."""
    order = rng.permutation(count)
    place = 0
    for _ in range(steps):
        if place + size > count:
            order, place = rng.permutation(count), 0
        yield np.sort(order[place : place + size])
        place += size


def train_judge(pictures: Picture, portraits: Sequence[Portrait], steps: int, seed: int, batch: int = 64) -> Judge:
    """`pictures` are (n, 64, 64, 3), as the generator's training set holds them."""
    torch.manual_seed(seed)
    labels, net = Labels.of(portraits), JudgeNet()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.1)
    bar = tqdm(batches(len(pictures), batch, steps, np.random.default_rng(seed)), "judge", steps, mininterval=5)
    for index in bar:
        x = disturbed(scaled_lab(pictures[index]))
        with autocast():
            logits, colours = net(x.to(memory_format=torch.channels_last))
        loss = judge_loss(logits, colours, labels[index])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        bar.set_postfix(loss=f"{float(loss.detach()):.3f}", refresh=False)
    return Judge(net)

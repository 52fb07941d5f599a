"""The face encoder: it parses the crop first, then reads traits from the parts' shapes and from their own pixels."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from deployments.embedded.training.appearance import LAB_RANGES, TRAITS, Choice, Scale, basis
from deployments.embedded.training.relight import CLASSES, HAIR, SKIN

PARSED = 28  # cells a side of the parsing
CERTAINTY = 2.0  # of choices in the embedding: so much surer than in training, where doubt is told as it is
CHOICES = {name: trait for name, trait in TRAITS.items() if isinstance(trait, Choice)}
PRIOR = {"glasses": 0.5, "beard": 0.7, "hat": 0.5}  # for "none": photos show these less often than drawings do
NUDGE = 0.06  # of a Lab range: how far a read colour may be from the one that is seen
SKIN_LIFT = 0.078  # of the range of L: training's hard light has skin read too dark by this in a plain photo
BRIGHT = 5.0  # the brighter cells of skin count so much more
RGB_TO_XYZ = (  # of sRGB, rows divided by the white of D65
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)
LOGITS = sum(1 if isinstance(trait, Scale) else trait.width for trait in TRAITS.values())


class StyleFree(nn.Module):
    """A residual block whose first normalisation takes each picture's own contrast away (Pan et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.InstanceNorm2d(width, affine=True),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class FaceEncoder(nn.Module):
    """(n, 3, 112, 112) in -1..1 -> (n, 512), of length 1, in the space of `appearance`.

    A drawing and a photo differ most in how surfaces look, least in where skin and hair are and in what colour they
    have. So colours are averages of the input's pixels under the parsed parts, and shapes are the parts themselves.
    """

    basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(24, 40, 3, stride=2, padding=1),
            StyleFree(40),
        )
        self.middle = nn.Sequential(nn.Conv2d(40, 80, 3, stride=2, padding=1), StyleFree(80))
        self.coarse = nn.Sequential(nn.Conv2d(80, 128, 3, stride=2, padding=1), StyleFree(128), nn.ReLU())
        self.from_coarse, self.from_middle = nn.Conv2d(128, 40, 1), nn.Conv2d(80, 40, 1)
        self.from_fine = nn.Conv2d(40, 40, 1)
        self.parser = nn.Sequential(
            nn.ReLU(), nn.Conv2d(40, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, CLASSES, 3, padding=1)
        )
        self.layout = nn.Sequential(nn.Conv2d(128, 14, 1), nn.ReLU())
        seen = 128 + 14 * 49 + (CLASSES - 1) * 49 + 8 * (CLASSES - 1)
        self.traits = nn.Sequential(nn.Linear(seen, 256), nn.ReLU(), nn.Linear(256, LOGITS))
        self.register_buffer("basis", torch.from_numpy(basis()))

    def parse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The coarse features, (n, 128, 7, 7), and the logits of the parts, (n, CLASSES, 28, 28)."""
        fine = self.fine(x)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        merged = F.interpolate(self.from_coarse(coarse), scale_factor=2.0) + self.from_middle(middle)
        merged = F.interpolate(merged, scale_factor=2.0) + self.from_fine(fine)
        return coarse, self.parser(merged)

    def read(self, x: Tensor, coarse: Tensor, parts: Tensor) -> dict[str, Tensor]:
        """Each trait: of a scale the place in 0..1, (n, 1), of a choice the logits, (n, options)."""
        colours = part_colours(x, parts)
        seen = [coarse.mean((2, 3)), self.layout(coarse).flatten(1)]
        seen += [F.avg_pool2d(parts, 4).flatten(1) * 2, colours.flatten(1)]
        widths = [1 if isinstance(trait, Scale) else trait.width for trait in TRAITS.values()]
        raw = dict(zip(TRAITS, self.traits(torch.cat(seen, 1)).split(widths, 1), strict=True))
        told = {name: torch.sigmoid(raw[name]) if name not in CHOICES else raw[name] for name in TRAITS}
        for part, label in (("skin", SKIN), ("hair", HAIR)):
            seen_lab, sure = lab(colours[:, label - 1, 3:6]), colours[:, label - 1, 6:7]
            for axis, place in zip("Lab", lab_places(seen_lab), strict=True):
                name = f"{part} {axis}"
                told[name] = sure * (place + NUDGE * torch.tanh(raw[name])) + (1 - sure) * told[name]
        return told

    def forward(self, x: Tensor) -> Tensor:
        coarse, parsed = self.parse(x)
        told = self.read(x, coarse, shares(parsed))
        told["skin L"] = told["skin L"] + SKIN_LIFT
        return F.normalize(code(told), dim=1) @ self.basis


def shares(parsed: Tensor) -> Tensor:
    """(n, CLASSES, 28, 28) logits -> (n, CLASSES - 1, 28, 28): how much of each part is in a cell."""
    return torch.softmax(parsed, 1)[:, 1:]


def part_colours(x: Tensor, parts: Tensor) -> Tensor:
    """(n, parts, 8): mean colour of each part, that of its surest cells, how sure they are, its share of the picture.

    Of skin the brighter cells count more, as shadows are seldom taken for its colour. A part that is not there has the
    colour 0, a middle grey.
    """
    pixels = F.avg_pool2d(x, x.shape[2] // PARSED).flatten(2).transpose(1, 2)  # (n, cells, 3)
    share = parts.flatten(2)
    sure = share * torch.sigmoid(16 * (share - 0.8))
    light = pixels.mean(2)[:, None]  # (n, 1, cells)
    middle = (sure * light).sum(2, keepdim=True) / (sure.sum(2, keepdim=True) + 1e-3)
    bright = torch.sigmoid(BRIGHT * (light - middle))
    weights = (share, torch.cat([sure[:, :SKIN] * bright[:, :SKIN], sure[:, SKIN:]], 1))
    colours = [weight @ pixels / (weight.sum(2, keepdim=True) + 1e-3) for weight in weights]
    there = sure.sum(2, keepdim=True)
    return torch.cat([*colours, there / (there + 2.0), share.mean(2, keepdim=True) * 4], 2)


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


def code(told: dict[str, Tensor]) -> Tensor:
    """(n, CODE_WIDTH), as `appearance.code_of` writes it; bald heads have no hair colour, bare eyes no frame."""
    parts = {name: trait.weight * points(name, told[name]) for name, trait in TRAITS.items()}
    bald = parts["hair style"][:, [CHOICES["hair style"].options.index("bald")]] / CHOICES["hair style"].weight
    bare = parts["glasses"][:, [CHOICES["glasses"].options.index("none")]] / CHOICES["glasses"].weight
    for name in ("hair L", "hair a", "hair b"):
        parts[name] = parts[name] * (1 - bald)
    parts["frame"] = parts["frame"] * (1 - bare)
    return torch.cat(list(parts.values()), 1)


def points(name: str, told: Tensor) -> Tensor:
    """A scale as a point of a half circle, a choice as shares of its options."""
    if name not in CHOICES:
        return torch.cat([(math.pi * told).cos(), (math.pi * told).sin()], 1)
    doubt = [PRIOR.get(name, 0.0) * (value == "none") for value in CHOICES[name].options]
    return torch.softmax(CERTAINTY * (told + told.new_tensor(doubt)), 1)

"""The face encoder: segments the crop, then predicts traits from the shapes and pixels of the parts."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from deployments.embedded.training.renderer.appearance import LAB_RANGES, TRAITS, Choice, Scale, basis
from deployments.embedded.training.renderer.relight import BEARD, CLASSES, GLASSES, HAIR, SKIN

PARSED = 28  # cells a side of the parsing
LOOKS, NEARER = 4, 5  # at one crop; what a nearer one leaves out at each side, in pixels
CERTAINTY = 2.0  # of choices in the embedding: so much surer than in training, where doubt is told as it is
CHOICES = {name: trait for name, trait in TRAITS.items() if isinstance(trait, Choice)}
PRIOR: dict[str, dict[str, float]] = {  # photos show these less often, or more, than drawings do
    "glasses": {"none": 0.5},
    "beard": {"none": 1.2},
    "hat": {"none": 0.5},
    "hair style": {"braids": -1.3},
}
OF_SHAPE = {"hair style": 1.0, "hair length": 1.0, "beard": 1.0}  # told by parts; looks tip the scales so far
GENDER_LOOK = 0.3  # the same where hair and beard tell the gender
BEARD_EDGE = 10.0  # how sharply a beard's colour is told from the skin's
LIT_SIDE = (0.8, 0.15, 0.0, 0.0)  # of each part: how much brighter than its mean, in deviations, its colour is sought
LIKE = 0.12  # of the range of colours: how far apart two are that still count as one part's
SETTLED = 3  # rounds of mean shift after which the colour of a part moves no more
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
        """(n, width, h, w) -> the same shape."""
        out: Tensor = x + self.body(x)
        return out


class FaceEncoder(nn.Module):
    """(n, 3, 112, 112) in -1..1 -> (n, 512), of length 1, in the space of `appearance`.

    A drawing and a photo differ most in how surfaces look, least in where skin and hair are and in what colour they
    have. So colours are those of most of the pixels under the parsed parts, and shapes are the parts themselves.
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
        parts = (CLASSES - 1) * 49 + 8 * (CLASSES - 1)
        self.by_shape = nn.Sequential(nn.Linear(parts, 96), nn.ReLU(), nn.Linear(96, LOGITS))
        self.by_look = nn.Sequential(nn.Linear(parts + 128 + 14 * 49, 192), nn.ReLU(), nn.Linear(192, LOGITS))
        self.gender = nn.Linear(sum(TRAITS[name].width for name in ("hair style", "beard")), 2)
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
        parts = believed(x, parts)
        colours = part_colours(x, parts)
        shape = torch.cat([F.avg_pool2d(parts, 4).flatten(1) * 2, colours.flatten(1)], 1)
        look = torch.cat([shape, coarse.mean((2, 3)), self.layout(coarse).flatten(1)], 1)
        widths = [1 if isinstance(trait, Scale) else trait.width for trait in TRAITS.values()]
        both = zip(TRAITS, self.by_shape(shape).split(widths, 1), self.by_look(look).split(widths, 1), strict=True)
        raw = {name: a + (OF_SHAPE[name] * torch.tanh(b) if name in OF_SHAPE else b) for name, a, b in both}
        told = {name: torch.sigmoid(raw[name]) if name not in CHOICES else raw[name] for name in TRAITS}
        worn = torch.cat([torch.softmax(told[name].detach(), 1) for name in ("hair style", "beard")], 1)
        told["gender"] = self.gender(worn) + GENDER_LOOK * torch.tanh(told["gender"])
        for part, label in (("skin", SKIN), ("hair", HAIR)):  # the seen colour as far as the part is there
            seen, sure = lab(colours[:, label - 1, 3:6]), colours[:, label - 1, 6:7]
            for axis, place in zip("Lab", lab_places(seen), strict=True):
                told[f"{part} {axis}"] = sure * place + (1 - sure) * told[f"{part} {axis}"]
        return told

    def forward(self, x: Tensor) -> Tensor:
        """The code of the traits' means over the LOOKS views of each crop, normalised."""
        views = looks(x)
        coarse, parsed = self.parse(views)
        told = self.read(views, coarse, shares(parsed))
        together = {name: value.reshape(LOOKS, -1, value.shape[1]).mean(0) for name, value in told.items()}
        return F.normalize(code(together), dim=1) @ self.basis


def looks(x: Tensor) -> Tensor:
    """(LOOKS n, 3, 112, 112): the crop and its middle, each also mirrored; what they agree on is seldom an accident."""
    side = x.shape[2]
    middle = x[:, :, NEARER : side - NEARER, NEARER : side - NEARER]
    both = torch.cat([x, F.interpolate(middle, size=(side, side), mode="bilinear", align_corners=False)])
    return torch.cat([both, both.flip(3)])


def shares(parsed: Tensor) -> Tensor:
    """(n, CLASSES, 28, 28) logits -> (n, CLASSES - 1, 28, 28): how much of each part is in a cell."""
    return torch.softmax(parsed, 1)[:, 1:]


def believed(x: Tensor, parts: Tensor) -> Tensor:
    """A beard is one where its colour is nearer to the hair's than to the skin's; else it is a mouth or a shadow.

    Where little hair is seen, a dark colour stands in for the hair's.
    """
    colours, pixels = part_colours(x, parts), F.avg_pool2d(x, x.shape[2] // PARSED)
    skin, hair, sure = colours[:, SKIN - 1, 3:6], colours[:, HAIR - 1, 3:6], colours[:, HAIR - 1, 6:7]
    hair = sure * hair + (1 - sure) * (0.35 * skin - 0.65)
    way = (hair - skin)[:, :, None, None]
    along = ((pixels - skin[:, :, None, None]) * way).sum(1) / (way**2).sum(1).clamp(min=0.02)
    beard = parts[:, BEARD - 1] * torch.sigmoid(BEARD_EDGE * (along - 0.5))
    rest = parts[:, BEARD - 1] - beard
    return torch.stack([parts[:, SKIN - 1] + rest, parts[:, HAIR - 1], beard, parts[:, GLASSES - 1]], 1)


def part_colours(x: Tensor, parts: Tensor) -> Tensor:
    """(n, parts, 8): mean colour of each part, that of most of it, how sure that is, its share of the picture.

    A part that is not there has the colour 0, a middle grey.
    """
    pixels = F.avg_pool2d(x, x.shape[2] // PARSED).flatten(2).transpose(1, 2)  # (n, cells, 3)
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
    away = (light - middle) / spread - light.new_tensor(LIT_SIDE)[:, None]
    colour = weighted(sure * torch.exp(-2 * away**2), pixels)
    for _ in range(SETTLED):
        apart = ((pixels[:, None] - colour[:, :, None]) ** 2).sum(3)  # (n, parts, cells)
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
    prior = [PRIOR.get(name, {}).get(value, 0.0) for value in CHOICES[name].options]
    return torch.softmax(CERTAINTY * (told + told.new_tensor(prior)), 1)

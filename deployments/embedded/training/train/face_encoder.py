"""The face encoder: parses a face into its parts, then reads the traits from their shapes, colours and looks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from deployments.embedded.training.renderer.appearance import TRAITS, Scale, basis
from deployments.embedded.training.renderer.parts import BEARD, HAIR, PARTS, SKIN
from deployments.embedded.training.train.certainty import CHOICES, Reading, embedded
from deployments.embedded.training.train.colours import NUMBERS, believed, lab, lab_places, part_colours
from deployments.embedded.training.train.parsers import COARSE, MIDDLE, NEAR, EyeParser, WholeParser, eye_strip, shares

LOOKS, NEARER = 4, 9  # at one crop; what a nearer one leaves out at each side, in pixels
OF_SHAPE = {"hair style": 1.0, "hair length": 1.0, "beard": 1.0}  # told by parts; looks tip the scales so far
GENDER_LOOK = 0.6  # the same where hair and beard tell the gender
SEEN = 0.85  # of a part's colour is the seen one, where enough of it is seen
DEVIATIONS = -4.5, -0.4  # logarithms of the least and the largest of a scale
ROUGH = 24  # pixels of a cell in which the roughness of skin is measured
WIDTHS = [2 if isinstance(trait, Scale) else trait.width for trait in TRAITS.values()]
COLOURED = ("eyes", "frame")  # traits that are told by the colours of parts alone
TEXTURED = (SKIN, HAIR, BEARD)


class FaceEncoder(nn.Module):
    """(n, 3, 192, 192) in -1..1 -> (n, 512), of length 1, in the space of `appearance`.

    A drawing and a photo differ most in how surfaces look, least in where skin and hair are and in what colour they
    have. So colours are those of most of the pixels under the parsed parts, and shapes are the parts themselves.
    """

    basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.eyes = WholeParser(), EyeParser()
        self.outline = nn.Sequential(
            nn.Conv2d(PARTS - 1, 24, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 16, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.layout = nn.Sequential(nn.Conv2d(COARSE, 14, 1), nn.ReLU())
        colours = 2 * (PARTS - 1) * NUMBERS
        shape = 16 * 64 + colours + (PARTS - 1) * 48
        look = shape + COARSE + 14 * 64 + len(TEXTURED) * MIDDLE + NEAR * 12 + 3 * 64
        self.by_shape = nn.Sequential(nn.Linear(shape, 128), nn.ReLU(), nn.Linear(128, sum(WIDTHS)))
        self.by_look = nn.Sequential(nn.Linear(look, 192), nn.ReLU(), nn.Linear(192, sum(WIDTHS)))
        coloured = sum(TRAITS[name].width for name in COLOURED)
        self.by_colour = nn.Sequential(nn.Linear(colours, 64), nn.ReLU(), nn.Linear(64, coloured))
        self.gender = nn.Linear(sum(TRAITS[name].width for name in ("hair style", "beard")), 2)
        self.register_buffer("basis", torch.from_numpy(basis()))

    def read(self, x: Tensor, looked: tuple[Tensor, Tensor, Tensor], parts: Tensor, eye_parts: Tensor) -> Reading:
        """The traits; `looked`: coarse and middle features of the whole, near ones of the eyes."""
        coarse, middle, near = looked
        parts = believed(x, parts)
        colours, of_eyes = part_colours(x, parts), part_colours(eye_strip(x), eye_parts)
        both_colours = torch.cat([colours, of_eyes], 1).flatten(1)
        worn = F.avg_pool2d(eye_parts, (6, 8)).flatten(1) * 2
        shape = torch.cat([self.outline(2 * parts).flatten(1), both_colours, worn], 1)
        textures = under(middle, F.avg_pool2d(parts, 2)[:, [part - 1 for part in TEXTURED]])
        eyes = F.avg_pool2d(near, (6, 8)).flatten(1)
        looks = [coarse.mean((2, 3)), self.layout(coarse).flatten(1), textures, eyes, roughness(x, parts[:, SKIN - 1])]
        told = merged(self.by_shape(shape), self.by_look(torch.cat([shape, *looks], 1)))
        widths = [TRAITS[name].width for name in COLOURED]
        told |= dict(zip(COLOURED, torch.split_with_sizes(self.by_colour(both_colours), widths, 1), strict=True))
        hair = torch.cat([torch.softmax(told[name].detach(), 1) for name in ("hair style", "beard")], 1)
        told["gender"] = self.gender(hair) + GENDER_LOOK * torch.tanh(told["gender"])
        for part, label in (("skin", SKIN), ("hair", HAIR)):  # the seen colour as far as the part is there
            seen, sure = lab(colours[:, label - 1, 3:6]), SEEN * colours[:, label - 1, 6:7]
            for axis, place in zip("Lab", lab_places(seen), strict=True):
                guess, deviation = told[f"{part} {axis}"].chunk(2, 1)
                told[f"{part} {axis}"] = torch.cat([sure * place + (1 - sure) * guess, deviation], 1)
        return told

    def forward(self, x: Tensor) -> Tensor:
        """The code of the traits' means over the LOOKS views of each crop, normalised."""
        views = looks(x)
        coarse, middle, parsed = self.whole(views)
        near, eyes = self.eyes(eye_strip(views))
        told = self.read(views, (coarse, middle, near), shares(parsed), shares(eyes))
        together = {name: value.reshape(LOOKS, -1, value.shape[1]).mean(0) for name, value in told.items()}
        return embedded(together, self.basis)


def looks(x: Tensor) -> Tensor:
    """(LOOKS n, 3, 192, 192): the crop and its middle, each also mirrored; what they agree on is seldom an accident."""
    side = x.shape[2]
    middle = x[:, :, NEARER : side - NEARER, NEARER : side - NEARER]
    both = torch.cat([x, F.interpolate(middle, size=(side, side), mode="bilinear", align_corners=False)])
    return torch.cat([both, both.flip(3)])


def merged(by_shape: Tensor, by_look: Tensor) -> Reading:
    """The sum of what shapes and looks tell, (n, sum of WIDTHS) each, trait by trait."""
    told = {}
    for name, a, b in zip(
        TRAITS, *(torch.split_with_sizes(each, WIDTHS, 1) for each in (by_shape, by_look)), strict=True
    ):
        raw = a + (OF_SHAPE[name] * torch.tanh(b) if name in OF_SHAPE else b)
        if name in CHOICES:
            told[name] = raw
        else:
            low, high = DEVIATIONS
            place, doubt = torch.sigmoid(raw).chunk(2, 1)
            told[name] = torch.cat([place, low + (high - low) * doubt], 1)
    return told


def under(features: Tensor, parts: Tensor) -> Tensor:
    """(n, c, h, w) and (n, p, h, w) -> (n, p c): the means of the features in each part."""
    weight = parts.flatten(2)
    return (weight @ features.flatten(2).transpose(1, 2) / (weight.sum(2, keepdim=True) + 0.5)).flatten(1)


def roughness(x: Tensor, skin: Tensor) -> Tensor:
    """(n, 3 x 64): what is fine, what runs across and what runs down on the skin, of its brightness: wrinkles, grain.

    `skin`: (n, cells, cells), its share of each.
    """
    light = x.mean(1, keepdim=True)
    smooth = F.avg_pool2d(light, 3, 1, 1)
    across = smooth - F.avg_pool2d(smooth, (9, 1), 1, (4, 0))
    down = smooth - F.avg_pool2d(smooth, (1, 9), 1, (0, 4))
    mask = F.interpolate((skin[:, None] > 0.7).float(), size=x.shape[2:])
    rough = torch.cat([light - smooth, across, down], 1).abs() / (light + 1.2)
    told = F.avg_pool2d(rough * mask, ROUGH) / (F.avg_pool2d(mask, ROUGH) + 0.1)
    return told.flatten(1) * 10

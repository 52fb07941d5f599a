"""From what the face encoder reads to the code of `appearance`: the surer a trait, the longer its part of the code."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from deployments.embedded.training.renderer.appearance import TRAITS, Choice
from deployments.embedded.training.renderer.portrait import FRAMES

Reading = dict[str, Tensor]
"""Of each trait: a choice's logits (n, options); a scale's place in 0..1 and its log deviation (n, 2)."""

CHOICES = {name: trait for name, trait in TRAITS.items() if isinstance(trait, Choice)}
SHARPNESS = 2.0  # of choices in the code: so much surer than in training, where doubt is told as it is
PRIOR: dict[str, dict[object, float]] = {  # photos show these less often, or more, than drawings do
    "glasses": {"none": 0.5, "sun": -0.5},
    "frame": {FRAMES[0]: 0.7},
    "beard": {"none": 0.8},
    "hat": {"none": 0.7},
    "hair style": {"braids": -1.3, "locs": -1.0, "ponytail": -1.2, "bun": -0.4, "long curly": -0.8, "bald": -0.6},
}
BEARDLESS = 3.0  # by how much a beard must be surer on who is surely a woman or a child
CHILDHOOD, CHILDHOOD_EDGE = 0.1, 0.03  # where it ends on the scale of ages, and how sharply


def code(told: Reading) -> Tensor:
    """(n, CODE_WIDTH), as `appearance.code_of` writes it; bald heads have no hair, bare eyes no frame."""
    parts = {name: trait.weight * points(name, told) for name, trait in TRAITS.items()}
    bald, bare = share(parts, "hair style", "bald"), share(parts, "glasses", "none")
    for name in ("hair L", "hair a", "hair b", "volume", "recession"):
        parts[name] = parts[name] * (1 - bald)
    for name in ("frame", "frame weight"):
        parts[name] = parts[name] * (1 - bare)
    return torch.cat(list(parts.values()), 1)


def share(parts: dict[str, Tensor], name: str, option: str) -> Tensor:
    """(n, 1): how much of a choice one option has."""
    place = CHOICES[name].options.index(option)
    return parts[name][:, place : place + 1] / CHOICES[name].weight


def points(name: str, told: Reading) -> Tensor:
    """A scale as the mean of points of a half circle, a choice as shares of its options."""
    if name not in CHOICES:
        place, deviation = told[name].chunk(2, 1)
        length = torch.exp(-((math.pi * deviation.exp()) ** 2) / 2)  # the mean direction of a normal distribution
        return length * torch.cat([(math.pi * place).cos(), (math.pi * place).sin()], 1)
    logits = told[name] + told[name].new_tensor([PRIOR.get(name, {}).get(each, 0.0) for each in CHOICES[name].options])
    if name == "beard":
        none = logits.new_tensor([each == "none" for each in CHOICES[name].options])
        logits = logits + BEARDLESS * beardless(told) * none
    return torch.softmax(SHARPNESS * logits, 1)


def beardless(told: Reading) -> Tensor:
    """(n, 1): how likely it is somebody who has no beard, a woman or a child."""
    woman = torch.softmax(told["gender"], 1)[:, [CHOICES["gender"].options.index("woman")]]
    child = torch.sigmoid((CHILDHOOD - told["age"][:, :1]) / CHILDHOOD_EDGE)
    return 1 - (1 - woman) * (1 - child)


def embedded(told: Reading, basis: Tensor) -> Tensor:
    """(n, 512), each of length 1; `basis` is (CODE_WIDTH, 512)."""
    return F.normalize(code(told), dim=1) @ basis

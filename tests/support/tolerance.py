"""How far two computations of the same may lie apart: from number types and lengths of sums, never from one processor.

A result rounded to a float type is off by at most eps/2 of itself. The order of a sum is the choice of the processor,
the kernel and the number of threads; its n roundings are independent of each other and add up like sqrt(n) of them
(Higham and Mary 2019). So do the layers of a network, each a sum of its own.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from deployments.types import Pixels

WORST = 4  # standard deviations of the worst of thousands of numbers
ONE_LEVEL = 1  # of 255: float32 differs by far less, but a value may lie on the edge between two levels
OWN_SHARE = 0.25  # of the distance to the nearest other picture


def roundings(count: float, dtype: torch.dtype = torch.float32) -> float:
    """What `count` roundings one after the other may change, relative to the largest number among them."""
    return count * torch.finfo(dtype).eps


def summed(terms: float, dtype: torch.dtype = torch.float32) -> float:
    """What another order of a sum may change, relative to its largest terms."""
    return roundings(WORST * math.sqrt(terms), dtype)


def through(network: nn.Module, dtype: torch.dtype = torch.float32) -> float:
    """What other orders of all its sums may change of what a network computes, relative to its largest number."""
    weights = [weight for weight in network.parameters() if weight.ndim > 1]
    return summed(sum(weight[0].numel() for weight in weights), dtype)


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max())


def mean_distance(a: Pixels, b: Pixels) -> float:
    """In levels of 255."""
    return float(np.abs(a.astype(int) - b).mean())


def assert_shows(drawn: Pixels, name: str, references: Mapping[str, Pixels]) -> None:
    """That a picture is the one of this name, whatever the number type in which each was drawn.

    Amid others it may differ from itself alone by roundings of that type, in bfloat16 by several levels at an edge;
    another picture is far away everywhere.
    """
    distances = {each: mean_distance(drawn, reference) for each, reference in references.items()}
    own = distances.pop(name)
    assert own < OWN_SHARE * min(distances.values()), (name, own, distances)

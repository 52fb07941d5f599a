"""Classifier-free guidance: Ho and Salimans 2022."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deployments.diffusion.model.transfer import to_device


def guided(predicted: Tensor, scales: Sequence[float]) -> Tensor:
    """Predictions (rows, ...) led by their scales.

    `predicted` begins with those against which the first rows are led, one for each scale; then come all rows, of which
    those without guidance stay as they are.
    """
    count = len(scales)
    against, towards = predicted[:count], predicted[count:]
    by = to_device(torch.tensor(scales), predicted.device).view(-1, *[1] * (predicted.ndim - 1))
    return torch.cat([against + by * (towards[:count] - against), towards[count:]])

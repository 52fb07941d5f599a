"""Classifier-free guidance (Ho and Salimans 2022), also in a limited interval (Kynkäänniemi et al. 2024)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deployments.diffusion.model.noise_schedule import Plan
from deployments.diffusion.model.transfer import to_device


def guided_steps(plan: Plan, interval: tuple[float, float] | None) -> tuple[bool, ...]:
    """Which steps of an image with guidance are guided: those from noise above the lower sigma, up to the higher one.

    arXiv 2404.07724: guidance does harm at high noise levels and is hardly needed at low ones.
    """
    lowest, highest = (0.0, float("inf")) if interval is None else interval
    return tuple(lowest < step.sigma <= highest for step in plan.steps)


def guided(predicted: Tensor, scales: Sequence[float]) -> Tensor:
    """Predictions (rows, ...) led by their scales.

    `predicted` begins with those against which the first rows are led, one for each scale; then come all rows, of which
    those without guidance stay as they are.
    """
    count = len(scales)
    against, towards = predicted[:count], predicted[count:]
    by = to_device(torch.tensor(scales), predicted.device).view(-1, *[1] * (predicted.ndim - 1))
    return torch.cat([against + by * (towards[:count] - against), towards[count:]])

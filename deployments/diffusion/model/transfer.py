"""Copies from the host to a model's device."""

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A copy on the device. To a GPU it is made when the steps before it have ended, and nothing waits for it.

    Copies from ordinary memory would wait for all of them. Relies on torch's host allocator, which gives page-locked
    memory to others only when the copies from it have been made.
    """
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)

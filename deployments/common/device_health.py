"""Tells a device that broke from a computation that failed on it. For models that run on torch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deployments.errors import DeviceLostError

# cuBLAS, cuDNN and Triton raise plain RuntimeErrors that only their text tells from others.
LIBRARY_ERRORS = (
    "CUDA error",
    "CUDA driver error",
    "HIP error",
    "cuBLAS",
    "CUBLAS_",
    "cuDNN",
    "CUDNN_",
    "Triton Error",
)
# The device works, but what these raise is not always a torch.OutOfMemoryError.
MEMORY_ERRORS = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the device ran out, by torch's own allocator or in one of its libraries."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MEMORY_ERRORS)


def is_device_error(error: BaseException) -> bool:
    """Whether an error came from the device or its libraries, and was not a lack of memory."""
    if is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in LIBRARY_ERRORS)


def responds(device: torch.device | str) -> bool:
    """Whether the device completes a tiny operation. After a sticky CUDA error it completes none in this process."""
    device = torch.device(device)
    try:
        (torch.ones(1, device=device) + 1).cpu()  # the copy waits for the operation
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except RuntimeError as error:
        return is_out_of_memory(error)
    return True


@contextmanager
def lost_device_errors(device: torch.device | str) -> Iterator[None]:
    """Raises: DeviceLostError in the place of a device's error after which the device does not respond."""
    try:
        yield
    except RuntimeError as error:
        if is_device_error(error) and not responds(device):
            raise DeviceLostError(f"{device} does not respond after {type(error).__name__}: {error}") from error
        raise

"""What torch raises on a model's device, as the engine knows it."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch

from deployments.common.device_health import is_out_of_memory, lost_device_errors
from deployments.diffusion.engine.denoiser import OutOfMemoryError


class OnDevice(Protocol):
    """A model that computes on one device."""

    @property
    def device(self) -> torch.device:
        """Where its networks are."""


P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=OnDevice)


def on_device(method: Callable[Concatenate[M, P], T]) -> Callable[Concatenate[M, P], T]:
    """Translates what torch raises. Raises: OutOfMemoryError; DeviceLostError."""

    @wraps(method)
    def translated(self: M, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with lost_device_errors(self.device):
            try:
                return method(self, *args, **kwargs)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise OutOfMemoryError(str(error)) from error
                raise

    return translated

"""What the engine draws with: the capability that a diffusion model gives it."""

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from deployments.types import AvatarSpec, Pixels, Vector


class OutOfMemoryError(Exception):
    """A step or a picture did not fit into the device's memory; nothing of it was kept."""


class Denoiser(Protocol):
    """What the engine draws with. A sample is one half-done image, known to its denoiser alone."""

    @property
    def decodes_beside(self) -> bool:
        """Whether `decode` may be called in another thread while a step is made."""

    def bucket(self, spec: AvatarSpec) -> Hashable:
        """Samples of one bucket can share a step."""

    def start(self, spec: AvatarSpec, face: Vector) -> Any:
        """A sample with no step made. Raises: OutOfMemoryError."""

    def step(self, samples: Sequence[Any]) -> None:
        """One step for each, wherever each stands. Raises: OutOfMemoryError; after any error all are as before."""

    def decode(self, sample: Any, beside: bool = False) -> Pixels:
        """The picture (h, w, 3) of a sample whose steps are all made; `beside` a step, it leaves most cores to that.

        Raises: OutOfMemoryError; after any error the sample is as before.
        """

"""The protocol through which the engine drives a diffusion model."""

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from deployments.types import AvatarSpec, FaceEmbedding, Pixels


class OutOfMemoryError(Exception):
    """A step or a decoding did not fit into the device's memory; it changed nothing."""


class Denoiser(Protocol):
    """A diffusion model. A sample is one half-done image, opaque to the engine.

    `start`, `step` and `decode` raise DeviceLostError where the device works no more.
    """

    @property
    def is_asynchronous(self) -> bool:
        """Whether steps run on a device of their own, which the host only drives.

        Then `start` may run on other threads, several at a time, during steps.
        """

    @property
    def overlaps_decoding(self) -> bool:
        """Whether `decode` may run on another thread during a step."""

    def bucket(self, spec: AvatarSpec, face: FaceEmbedding) -> Hashable:
        """Samples of one bucket can share a step."""

    def start(self, spec: AvatarSpec, face: FaceEmbedding) -> Any:
        """A sample before its first step. Raises: OutOfMemoryError."""

    def step(self, samples: Sequence[Any]) -> None:
        """Advance each sample by its own next step. Raises: OutOfMemoryError; after any error all are unchanged."""

    def decode(self, sample: Any, overlapped: bool = False) -> Pixels:
        """The image (h, w, 3) of a sample after its last step; `overlapped` with a step, it leaves most cores to it.

        Raises: OutOfMemoryError; after any error the sample is unchanged.
        """

"""The protocol through which the engine drives a diffusion model."""

from collections.abc import Hashable, Sequence
from typing import Any, Protocol, runtime_checkable

from deployments.types import AvatarSpec, FaceEmbedding, Pixels


class OutOfMemoryError(Exception):
    """A step or a decoding did not fit into the device's memory; it changed nothing."""


class StepInFlight(Protocol):
    """A step that was launched: on a device of its own it begins when the one before it has ended."""

    def wait_s(self) -> float:
        """Wait for its end; returns the seconds that the device took for it, however long the host took to launch it.

        Raises: DeviceLostError, and what else the device reports of it.
        """
        ...


class Denoiser(Protocol):
    """A diffusion model. A sample is one half-done image, opaque to the engine.

    `prepare`, `start`, `step` and `decode` raise DeviceLostError where the device works no more.
    """

    @property
    def is_asynchronous(self) -> bool:
        """Whether steps run on a device of their own, and the host only launches them.

        Then the next step may be launched before the last one has ended, and `prepare` and `start` may run on other
        threads, several at a time. `decode` may run on one other thread during a step in any case.
        """

    def bucket(self, spec: AvatarSpec, face: FaceEmbedding) -> Hashable:
        """Samples of one bucket can share a step."""

    def batch_sizes(self, spec: AvatarSpec) -> Sequence[int]:
        """Rows of the model's batch that an image takes, step by step: 2 where it is predicted with guidance, else 1.

        Raises: ValueError where the model has no such steps.
        """
        ...

    def prepare(self, specs: Sequence[AvatarSpec]) -> None:
        """Called before `start` of samples that start at one moment, so that what can be shared is computed once.

        Raises: OutOfMemoryError. What is wrong with one of them is raised by its `start`.
        """

    def start(self, spec: AvatarSpec, face: FaceEmbedding) -> Any:
        """A sample before its first step. Raises: OutOfMemoryError."""

    def step(self, samples: Sequence[Any]) -> StepInFlight:
        """Launch the own next step of each sample, after those launched before.

        Raises: OutOfMemoryError; after any error all samples are unchanged.
        """

    def decode(self, sample: Any, overlapped: bool = False) -> Pixels:
        """The image (h, w, 3) of a sample after its last step, for whose end it waits.

        `overlapped` with a step, it leaves most cores to it.

        Raises: OutOfMemoryError; after any error the sample is unchanged.
        """


@runtime_checkable
class Previewing(Protocol):
    """A model that can show what its half-done images will be."""

    def preview(self, sample: Any) -> Pixels | None:
        """A small picture (h, w, 3) of a sample after its last step, from its latents, without a decoder.

        On any thread, beside steps, which it does not hold up. None where the model's latents have no known colours.

        Raises: OutOfMemoryError; DeviceLostError.
        """

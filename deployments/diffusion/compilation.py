"""Which shapes of a model are compiled, and when. Imports no model library."""

import weakref
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Protocol

from deployments.config import AvatarGeneratorConfig

COMPILED_IMAGES = (1, 2, 3, 4, 6, 8, 12, 16)  # that share a step; between two of them a batch is padded

Size = tuple[int, int]
"""Width and height in pixels."""


class CompilableModel(Protocol):
    """A model that compiles shape by shape on the calling thread; it must support weak references."""

    def compile(self, size: Size, batch_size: int) -> None:
        """Compile one shape, in up to a minute. Raises: DeviceLostError."""
        ...


def compiled_batch_sizes(config: AvatarGeneratorConfig, *, guided: bool, single: bool = False) -> list[int]:
    """The batch sizes that occur: with guidance each image takes two rows, without it twice as many images fit.

    `single`: also one row, of an image without guidance amid others with it.
    """
    if config.batch_invariant:
        return [1]  # each row is a batch of its own
    rows = 2 if guided else 1
    sizes = [rows * images for images in COMPILED_IMAGES if rows * images <= 2 * config.max_rows]
    return [1, *sizes] if single and guided else sizes


def compile_at_start(model: CompilableModel, size: Size, batch_sizes: Sequence[int]) -> None:
    """Compile one size. Takes minutes."""
    for batch_size in batch_sizes:
        model.compile(size, batch_size)


def compile_when_idle(model: CompilableModel, sizes: Sequence[Size], batch_sizes: Sequence[int]) -> Iterator[None]:
    """Compile one shape before each item. Ends early when the model is evicted, which this does not prevent.

    For nine sizes that is an hour of idle time on a new node, and what arrives meanwhile waits for the current shape.
    """
    return _compile_each(weakref.ref(model), list(product(sizes, batch_sizes)))


def _compile_each(reference: weakref.ref[CompilableModel], shapes: Sequence[tuple[Size, int]]) -> Iterator[None]:
    for size, batch_size in shapes:
        model = reference()
        if model is None:
            return
        model.compile(size, batch_size)
        del model
        yield

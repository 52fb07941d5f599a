"""Compiled graphs of a network, one for each shape, which never make a step fail that it alone could make."""

import logging
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from deployments.common.device_health import is_out_of_memory
from deployments.config import CompileScope
from deployments.diffusion.engine.denoiser import OutOfMemoryError
from deployments.diffusion.model.batch_sharding import Tensors

GRAPHS = 10_000  # of all models of a process: more than any has

log = logging.getLogger(__name__)


Shape = tuple[Hashable, int]
"""A kind of batch, and how many rows it has."""


class CompiledNetwork:
    """Predicts the batches for which there is a graph. A smaller batch is padded to the next compiled batch size.

    A graph that fails, in its compiler or later, is given up: its batches then run uncompiled. torch's own
    `suppress_errors` does not help, as it is ignored with `fullgraph`.
    """

    def __init__(
        self,
        network: Any,
        predict: Callable[[Any, Any, Tensors], Tensor],
        on_failure: Callable[[], None],
        scope: CompileScope = "unet",
    ) -> None:
        """`predict` calls a network for a kind of batch; `on_failure` is called for each graph that is given up.

        With the scope `blocks` only the transformer blocks are compiled: those of one shape share a graph.
        """
        self._network = network
        self._scope = scope
        self._predict = predict
        self._on_failure = on_failure
        self._graph: Any = None
        self._batch_sizes: dict[Hashable, list[int]] = {}  # the smallest first; also those that were given up
        self._given_up: set[Shape] = set()
        self._compiling: Shape | None = None

    @contextmanager
    def compiling(self, kind: Hashable, batch_size: int, backend: str) -> Iterator[None]:
        """A batch of this shape, predicted inside the block, compiles its graph; `str` of a kind is for the log."""
        if self._graph is None:
            self._graph = self._prepared(backend)
        self._batch_sizes[kind] = sorted({*self._batch_sizes.get(kind, []), batch_size})
        self._compiling = kind, batch_size
        try:
            # torch limits the graphs of one piece of code; here there is one for each shape.
            with torch._dynamo.config.patch(recompile_limit=GRAPHS, accumulated_recompile_limit=GRAPHS):
                yield
        except BaseException:
            self._batch_sizes[kind].remove(batch_size)
            raise
        finally:
            self._compiling = None

    def _prepared(self, backend: str) -> Any:
        """A network that compiles at its first call of each shape."""
        how: dict[str, Any] = {"backend": backend, "fullgraph": True, "dynamic": False}
        if self._scope == "unet":
            return torch.compile(self._network, **how)
        self._network.compile_repeated_blocks(**how)  # in place
        return self._network

    def uncompiled(self) -> AbstractContextManager[None]:
        """Inside the block the network runs without graphs, and compiles none."""
        is_in_place = self._graph is self._network
        stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
        return stance if is_in_place else nullcontext()

    def __call__(self, kind: Hashable, inputs: Tensors) -> Tensor | None:
        """The prediction for a batch of this kind, rows first in all its inputs; None without a graph that works."""
        rows = len(next(iter(inputs.values())))
        shape = self._compiling or self._shape(kind, rows)
        if shape is None:
            return None
        padded = {name: _padded(values, shape[1]) for name, values in inputs.items()}
        # To compile takes up to minutes, in which every request would wait.
        stance = "fail_on_recompile" if self._compiling is None else "default"
        try:
            with torch.compiler.set_stance(stance):
                return self._predict(self._graph, kind, padded)[:rows]
        except Exception as error:  # compilers raise whatever their parts raise
            if is_out_of_memory(error):
                raise
            self._give_up(shape, error)
            return None

    def _shape(self, kind: Hashable, rows: int) -> Shape | None:
        batch_sizes = self._batch_sizes.get(kind, [])
        place = bisect_left(batch_sizes, rows)
        if place == len(batch_sizes) or (kind, batch_sizes[place]) in self._given_up:
            return None
        return kind, batch_sizes[place]

    def _give_up(self, shape: Shape, error: Exception) -> None:
        self._given_up.add(shape)
        log.warning("%s in batches of %d run uncompiled from now on", *shape, exc_info=error)
        self._on_failure()


@contextmanager
def left_out_without_memory(size: tuple[int, int], batch_size: int) -> Iterator[None]:
    """Around compiling for an image size in pixels: a shape for which memory is too short stays uncompiled."""
    try:
        yield
    except OutOfMemoryError:
        log.warning("%d x %d pixels in batches of %d are not compiled: no memory", *size, batch_size)


def _padded(values: Tensor, rows: int) -> Tensor:
    """Padded to `rows` by repeating the last row."""
    return torch.cat([values, values[-1:].expand(rows - len(values), *values.shape[1:])])

"""Compiled graphs of a UNet, one for each shape, which never make a step fail that the UNet alone could make."""

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from deployments.common.device_health import is_out_of_memory
from deployments.config import CompileScope
from deployments.diffusion.model.batch_sharding import Tensors

Size = tuple[int, int]
"""Height and width of latents."""

GRAPHS = 10_000  # of all models of a process: more than any has

log = logging.getLogger(__name__)


class CompiledUNet:
    """Predicts the batches for which there is a graph. A smaller batch is padded to the next compiled batch size.

    A graph that fails, in its compiler or later, is given up: its batches then run uncompiled. torch's own
    `suppress_errors` does not help, as it is ignored with `fullgraph`.
    """

    def __init__(
        self, unet: Any, predict: Callable[..., Tensor], on_failure: Callable[[], None], scope: CompileScope = "unet"
    ) -> None:
        """`predict` calls a UNet; `on_failure` is called for each graph that is given up.

        With the scope `blocks` only the transformer blocks are compiled: those of one shape share a graph.
        """
        self._unet = unet
        self._scope = scope
        self._predict = predict
        self._on_failure = on_failure
        self._graph: Any = None
        self._batch_sizes: dict[Size, list[int]] = {}  # the smallest first; also those that were given up
        self._given_up: set[tuple[Size, int]] = set()
        self._compiling: tuple[Size, int] | None = None

    @contextmanager
    def compiling(self, size: Size, batch_size: int, backend: str) -> Iterator[None]:
        """A batch of this shape, predicted inside the block, compiles its graph."""
        if self._graph is None:
            self._graph = self._prepared(backend)
        self._batch_sizes[size] = sorted({*self._batch_sizes.get(size, []), batch_size})
        self._compiling = size, batch_size
        try:
            # torch limits the graphs of one piece of code; here there is one for each shape.
            with torch._dynamo.config.patch(recompile_limit=GRAPHS, accumulated_recompile_limit=GRAPHS):
                yield
        except BaseException:
            self._batch_sizes[size].remove(batch_size)
            raise
        finally:
            self._compiling = None

    def _prepared(self, backend: str) -> Any:
        """A UNet that compiles at its first call of each shape."""
        how: dict[str, Any] = {"backend": backend, "fullgraph": True, "dynamic": False}
        if self._scope == "unet":
            return torch.compile(self._unet, **how)
        self._unet.compile_repeated_blocks(**how)  # in place
        return self._unet

    def uncompiled(self) -> AbstractContextManager[None]:
        """Inside the block the UNet runs without graphs, and compiles none."""
        is_in_place = self._graph is self._unet
        stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
        return stance if is_in_place else nullcontext()

    def __call__(self, latents: Tensor, timesteps: Tensor, conditions: Tensors) -> Tensor | None:
        """The prediction; None where there is no graph, or where it failed."""
        rows, _channels, *size = latents.shape
        shape = self._compiling or self._shape((size[0], size[1]), rows)
        if shape is None:
            return None
        batch_size = shape[1]
        padded = {name: _padded(values, batch_size) for name, values in conditions.items()}
        # One graph for prompts of any number of windows.
        torch._dynamo.mark_dynamic(padded["prompt_embeds"], 1)
        # To compile takes up to minutes, in which every request would wait.
        stance = "fail_on_recompile" if self._compiling is None else "default"
        try:
            with torch.compiler.set_stance(stance):
                return self._predict(self._graph, _padded(latents, batch_size), _padded(timesteps, batch_size), padded)[
                    :rows
                ]
        except Exception as error:  # compilers raise whatever their parts raise
            if is_out_of_memory(error):
                raise
            self._give_up(shape, error)
            return None

    def _shape(self, size: Size, rows: int) -> tuple[Size, int] | None:
        batch_sizes = self._batch_sizes.get(size, [])
        place = bisect_left(batch_sizes, rows)
        if place == len(batch_sizes) or (size, batch_sizes[place]) in self._given_up:
            return None
        return size, batch_sizes[place]

    def _give_up(self, shape: tuple[Size, int], error: Exception) -> None:
        self._given_up.add(shape)
        (height, width), batch_size = shape
        log.warning(
            "latents of %d x %d in batches of %d run uncompiled from now on", height, width, batch_size, exc_info=error
        )
        self._on_failure()


def _padded(values: Tensor, rows: int) -> Tensor:
    """Padded to `rows` by repeating the last row."""
    return torch.cat([values, values[-1:].expand(rows - len(values), *values.shape[1:])])

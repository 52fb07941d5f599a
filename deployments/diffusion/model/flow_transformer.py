"""FLUX.2's transformer for batches whose rows each have their own time, prompt and pictures of a person."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deployments.config import CompileScope
from deployments.diffusion.model.batch_sharding import Tensors
from deployments.diffusion.model.compiled_network import CompiledNetwork
from deployments.diffusion.model.row_lora import LoraSlots
from deployments.diffusion.model.transfer import to_device

REFERENCE_TIME = 10  # the first coordinate of the first picture's tokens; of the second one it is twice that, and so on


class Grid(NamedTuple):
    """Rows and columns of tokens."""

    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Their number."""
        return self.height * self.width


class Grids(NamedTuple):
    """Of an image and of the pictures that it is drawn from: the same for all rows of a batch."""

    image: Grid
    references: tuple[Grid, ...]

    def __str__(self) -> str:
        references = ", ".join(f"{grid.height} x {grid.width}" for grid in self.references)
        return f"{self.image.height} x {self.image.width} tokens beside references of {references}"


class FlowTransformer:
    """A `Flux2Transformer2DModel`; takes ownership of it. Some shapes can be compiled, others run uncompiled."""

    def __init__(
        self,
        transformer: Any,
        batch_invariant: bool = False,
        on_compile_failure: Callable[[], None] = lambda: None,
        compile_scope: CompileScope = "unet",
        loras: LoraSlots | None = None,
    ) -> None:
        """With `batch_invariant` each row is a batch of its own."""
        self._transformer = transformer
        self._loras = loras
        self._graphs = CompiledNetwork(transformer, self._predict, on_compile_failure, compile_scope)
        self._batch_invariant = batch_invariant
        # diffusers searches all modules for each of these two.
        self._device, self.dtype = transformer.device, transformer.dtype
        self.channels: int = transformer.config.in_channels
        self._positions = lru_cache(16)(self._positions_of)
        self._text_positions = lru_cache(1)(self._text_positions_of)

    def __call__(
        self, grids: Grids, tokens: Tensor, times: Tensor, prompts: Tensor, lora_slots: Tensor | None = None
    ) -> Tensor:
        """The flow, (rows, tokens, channels) in the transformer's dtype, of the image's tokens and the references'.

        `tokens` are those of the image, then those of each reference; times are (rows,), from 0 to 1; prompts
        (rows, tokens, width); `lora_slots` (rows, 2), on the CPU, where rows wear LoRAs.
        """
        inputs = {"tokens": tokens.to(self.dtype), "times": times.to(self.dtype), "prompts": prompts}
        if lora_slots is not None:
            inputs["lora_slots"] = lora_slots
        if not self._batch_invariant:
            return self._batch(grids, inputs)
        rows = [{name: values[row : row + 1] for name, values in inputs.items()} for row in range(len(tokens))]
        return torch.cat([self._batch(grids, row) for row in rows])

    def compiling(self, grids: Grids, batch_size: int, backend: str) -> AbstractContextManager[None]:
        """A batch of this shape inside the block compiles its graph."""
        return self._graphs.compiling(grids, batch_size, backend)

    def _batch(self, grids: Grids, inputs: Tensors) -> Tensor:
        predicted = self._graphs(grids, inputs)
        if predicted is None:
            with self._graphs.uncompiled():
                predicted = self._predict(self._transformer, grids, inputs)
        return predicted

    def _predict(self, transformer: Any, grids: Grids, inputs: Tensors) -> Tensor:
        wearing = (
            nullcontext()
            if self._loras is None or "lora_slots" not in inputs
            else self._loras.worn(inputs["lora_slots"])
        )
        with wearing:
            flow: Tensor = transformer(
                hidden_states=inputs["tokens"],
                timestep=inputs["times"],
                guidance=None,
                encoder_hidden_states=inputs["prompts"],
                txt_ids=self._text_positions(inputs["prompts"].shape[1]),
                img_ids=self._positions(grids),
                return_dict=False,
            )[0]
        return flow

    def _positions_of(self, grids: Grids) -> Tensor:
        """(tokens, 4): time, row, column, place in the prompt; the image has time 0."""
        placed = [(REFERENCE_TIME * number, grid) for number, grid in enumerate((grids.image, *grids.references))]
        return to_device(torch.cat([_coordinates(time, grid) for time, grid in placed]), self._device)

    def _text_positions_of(self, tokens: int) -> Tensor:
        places = torch.zeros(tokens, 4, dtype=torch.int64)
        places[:, 3] = torch.arange(tokens)
        return to_device(places, self._device)


def _coordinates(time: int, grid: Grid) -> Tensor:
    axes: Sequence[Tensor] = (
        torch.tensor([time]), torch.arange(grid.height), torch.arange(grid.width), torch.tensor([0]),
    )  # fmt: skip
    return torch.cartesian_prod(*axes)

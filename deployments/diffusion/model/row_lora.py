"""LoRAs by the row: in one batch each row adds its own to the weights that all share."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deployments.diffusion.model.lora_file import LoraFactors

MAX_ROWS = 256  # of a batch of a compiled graph

Lora = Mapping[str, LoraFactors]
"""By the names of the layers."""


class LoraSlots:
    """The LoRAs of a UNet by name, and which of them each row of the current batch wears. Slot 0 is none."""

    def __init__(self, unet: nn.Module, loras: Mapping[str, Lora]) -> None:
        """Replaces the layers of the UNet that a LoRA changes; its weights have their final device and dtype."""
        self._slot_of = {name: slot for slot, name in enumerate(loras, 1)}
        self._here = threading.local()  # rows of a batch are spread over threads
        self._in_graphs = torch.zeros(MAX_ROWS, dtype=torch.long, device=next(unet.parameters()).device)
        for layer in dict.fromkeys(name for lora in loras.values() for name in lora):
            parent, _, name = layer.rpartition(".")
            of_layer = [lora.get(layer) for lora in loras.values()]
            setattr(unet.get_submodule(parent), name, RowLoraLayer(unet.get_submodule(layer), of_layer, self))

    def slot(self, name: str | None) -> int:
        """Raises: ValueError for a name that there is not."""
        if name is None:
            return 0
        if name not in self._slot_of:
            raise ValueError(f"the model has no LoRA {name!r}")
        return self._slot_of[name]

    @contextmanager
    def worn(self, slots: Tensor) -> Iterator[None]:
        """Inside the block row i of a batch wears the LoRA in `slots[i]`; `slots` is (rows,)."""
        # A graph cannot ask a thread; it reads this tensor, which is written before it runs.
        self._in_graphs[: len(slots)] = slots
        self._here.slots = slots
        try:
            yield
        finally:
            self._here.slots = None
            self._in_graphs.zero_()

    def of_rows(self, rows: int) -> Tensor | None:
        """(rows,): the slot of each row of the batch that is computed; None where no row wears a LoRA."""
        if torch.compiler.is_compiling():
            return self._in_graphs[:rows]
        slots: Tensor | None = getattr(self._here, "slots", None)
        return slots


class RowLoraLayer(nn.Module):
    """A linear layer or convolution, to whose output each row adds that of its own LoRA.

    LoRAs of fewer ranks are filled up with zeros: shapes do not depend on what the rows wear.
    """

    def __init__(self, base: Any, loras: Sequence[LoraFactors | None], slots: LoraSlots) -> None:
        """`loras` are those of the slots from 1; None leaves the layer as it is."""
        super().__init__()
        self.base = base
        self._slots = slots
        given = [each for each in loras if each is not None]
        rank = max(each.rank for each in given)
        weight = base.weight
        down = weight.new_zeros(len(loras), rank, *given[0].down.shape[1:])
        up = weight.new_zeros(len(loras), given[0].up.shape[0], rank)
        for index, each in enumerate(loras):
            if each is not None:
                down[index, : each.rank], up[index, :, : each.rank] = each.down, each.up
        self.down = nn.Buffer(down)
        self.up = nn.Buffer(up)

    def forward(self, values: Tensor) -> Tensor:
        """(rows, …) as the layer that it replaces."""
        output: Tensor = self.base(values)
        slots = self._slots.of_rows(len(values))
        if slots is None:
            return output
        index, wears = (slots - 1).clamp(min=0), (slots > 0)[:, None, None]
        down, up = self.down[index], self.up[index] * wears
        added = _convolved(values, down, up, self.base) if down.ndim > 3 else _multiplied(values, down, up)
        return output + added


def _multiplied(values: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """(rows, …, in), (rows, rank, in) and (rows, out, rank) to (rows, …, out)."""
    between = torch.bmm(values.reshape(len(values), -1, values.shape[-1]), down.mT)
    return torch.bmm(between, up.mT).view(*values.shape[:-1], -1)


def _convolved(picture: Tensor, down: Tensor, up: Tensor, layer: nn.Conv2d) -> Tensor:
    """(rows, in, h, w), (rows, rank, in, height, width) and (rows, out, rank) to (rows, out, h', w')."""
    rows, rank = down.shape[:2]
    grouped, kernels = picture.reshape(1, -1, *picture.shape[2:]), down.flatten(0, 1)
    between = nn.functional.conv2d(
        grouped, kernels, None, layer.stride, layer.padding, layer.dilation, groups=rows
    )  # of each row by its own
    added = torch.bmm(up, between.view(rows, rank, -1))
    return added.view(rows, -1, *between.shape[2:])

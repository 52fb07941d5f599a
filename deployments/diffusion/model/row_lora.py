"""LoRAs by the row: in one batch each row adds its own to the weights that all share."""

import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate, combinations, groupby, product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deployments.diffusion.model.lora_file import Lora, LoraFactors
from deployments.diffusion.model.transfer import to_device

MAX_ROWS = 256  # of a batch of a compiled graph
BATCHES = 16  # of which the runs are kept: that of a step is mostly that of the step before

Worn = tuple[int, int]
"""The slots of the two LoRAs that a row may wear; 0 is none."""

NOTHING: Worn = (0, 0)


class Run(NamedTuple):
    """Neighbouring rows of a batch whose LoRAs have equally many ranks together."""

    rows: slice
    ranks: Tensor  # (rows, ranks): where they are among those of a layer
    is_uniform: bool  # whether it is all rows of the batch, and they wear the same


class LoraSlots:
    """The LoRAs of a network by name, and which of them each row of the current batch wears: none, one or two.

    The slot of a LoRA is its number, from 1: those of few ranks come first, so that sorted rows make few runs.
    """

    def __init__(
        self,
        network: nn.Module,
        loras: Mapping[str, Lora],
        styles: Set[str] = frozenset(),
        dtype: torch.dtype | None = None,
    ) -> None:
        """Replaces the layers of the network that a LoRA changes; its weights have their final device and dtype.

        A LoRA that changes none has the slot 0, and one that has several names one slot. No row wears two of the
        `styles`, but for those that are none by another name. `dtype` is that in which the network computes, where its
        weights have another.
        """
        heard = {id(lora): lora for lora in loras.values() if lora}
        distinct = sorted(heard.values(), key=lambda lora: max(factors.rank for factors in lora.values()))
        slots = range(1, 1 + len(distinct))
        slot_of = {id(lora): slot for slot, lora in zip(slots, distinct, strict=True)}
        self._slot_of = {name: slot_of.get(id(lora), 0) for name, lora in loras.items()}
        self._styles = {self._slot_of[name] for name in styles} - {self._slot_of[name] for name in {*loras} - styles}
        self._styles -= {0}
        pairs = [(0, slot) for slot in slots]
        pairs += [pair for pair in combinations(slots, 2) if not self._styles.issuperset(pair)]
        self._here = threading.local()  # rows of a batch are spread over threads
        self._tables: dict[tuple[int, ...], RankTable] = {}
        self._runs = lru_cache(BATCHES)(self._runs_of_batch)
        for layer in dict.fromkeys(name for lora in distinct for name in lora):
            of_layer = [lora.get(layer) for lora in distinct]
            ranks = tuple(0 if factors is None else factors.rank for factors in of_layer)
            base: Any = network.get_submodule(layer)
            if ranks not in self._tables:
                self._tables[ranks] = RankTable(ranks, pairs, base.weight.device)
            parent, _, name = layer.rpartition(".")
            given = [factors for factors in of_layer if factors is not None]
            row_layer = RowLoraLayer(base, given, self, self._tables[ranks], dtype or base.weight.dtype)
            setattr(network.get_submodule(parent), name, row_layer)

    def worn_by(self, lora: str | None = None, speed_lora: str | None = None) -> Worn:
        """The slots of a row that wears these. Raises: ValueError for a name that there is not, or two styles."""
        for name in (lora, speed_lora):
            if name is not None and name not in self._slot_of:
                raise ValueError(f"the model has no LoRA {name!r}")
        first, second = sorted(0 if name is None else self._slot_of[name] for name in (lora, speed_lora))
        if second and (first == second or self._styles.issuperset((first, second))):
            raise ValueError(f"LoRAs {lora!r} and {speed_lora!r} cannot be worn together")
        return first, second

    @contextmanager
    def worn(self, slots: Tensor) -> Iterator[None]:
        """Inside the block row i of a batch wears the LoRAs of `slots[i]`; `slots` is (rows, 2), on the CPU."""
        batch = tuple((first, second) for first, second in slots.tolist())
        try:  # without memory for what it copies, nothing of it may stay for the next batch
            # A graph cannot ask a thread; it reads what is written here before it runs.
            for table in self._tables.values():
                table.in_graphs[: len(batch)] = to_device(table.filled_up(batch), table.in_graphs.device)
            self._here.runs = self._runs(batch)
            yield
        finally:
            self._here.runs = {}
            for table in self._tables.values():
                table.in_graphs.zero_()

    def runs(self, table: "RankTable", rows: int) -> Sequence[Run]:
        """Of the batch that is computed, which has so many rows; none where no row wears a LoRA of such a layer."""
        if torch.compiler.is_compiling():
            return [Run(slice(rows), table.in_graphs[:rows], is_uniform=False)]
        runs: dict[RankTable, Sequence[Run]] = getattr(self._here, "runs", {})
        return runs.get(table, ())

    def _runs_of_batch(self, batch: Sequence[Worn]) -> dict["RankTable", Sequence[Run]]:
        return {table: table.runs(batch) for table in self._tables.values()}


class RankTable:
    """Where the ranks of a LoRA are among those of a layer; layers whose LoRAs have the same ranks share it.

    The ranks of all LoRAs follow each other, from 1; the rank 0 is zeros.
    """

    def __init__(self, ranks: Sequence[int], pairs: Sequence[Worn], device: torch.device) -> None:
        """`ranks` are those of the slots from 1; `pairs` all that a row may wear."""
        starts = accumulate(ranks, initial=1)
        self._of_slot = [range(0), *(range(start, start + rank) for start, rank in zip(starts, ranks, strict=False))]
        self._most = max(len(self._of(pair)) for pair in pairs)
        self._device = device
        # What the rows of a graph wear: its shape is the same whatever they do.
        self.in_graphs = torch.zeros(MAX_ROWS, self._most, dtype=torch.long, device=device)

    def runs(self, batch: Sequence[Worn]) -> Sequence[Run]:
        """The runs of a batch, without rows that wear nothing here."""
        ranks = [self._of(worn) for worn in batch]
        is_uniform = all(each == ranks[0] for each in ranks)
        found, begin = [], 0
        for count, group in groupby(ranks, len):
            rows = list(group)
            if count:
                where = to_device(torch.tensor(rows), self._device)
                found.append(Run(slice(begin, begin + len(rows)), where, is_uniform))
            begin += len(rows)
        return found

    def filled_up(self, batch: Sequence[Worn]) -> Tensor:
        """(rows, most ranks of any row), filled up with the rank 0."""
        rows = map(self._of, batch)
        return torch.tensor([[*ranks, *[0] * (self._most - len(ranks))] for ranks in rows])

    def _of(self, worn: Worn) -> list[int]:
        return [rank for slot in worn for rank in self._of_slot[slot]]


class RowLoraLayer(nn.Module):
    """A linear layer or convolution, to whose output each row adds that of its own LoRAs."""

    def __init__(
        self, base: Any, loras: Sequence[LoraFactors], slots: LoraSlots, table: RankTable, dtype: torch.dtype
    ) -> None:
        """`loras` are those that change this layer, by their slots."""
        super().__init__()
        self.base = base
        self._slots = slots
        self._table = table
        # The ranks of all follow each other, with no gaps: one of many costs those of few no memory.
        down, up = torch.cat([each.down for each in loras]), torch.cat([each.up.mT for each in loras])
        places = down.flatten(2).mT if down.ndim > 2 else down  # of a kernel
        self.down = nn.Buffer(_after_zeros(places).to(base.weight.device, dtype))  # (1 + ranks, in), or a place more
        self.up = nn.Buffer(_after_zeros(up).to(base.weight.device, dtype))  # (1 + ranks, out)

    def forward(self, values: Tensor) -> Tensor:
        """(rows, …) as the layer that it replaces."""
        runs = self._slots.runs(self._table, len(values))
        if self._is_convolution and runs and runs[0].is_uniform:
            return self._convolved_at_once(values, runs[0].ranks[0])
        output: Tensor = self.base(values)
        self.add(values, output)
        return output

    def is_worn(self, rows: int) -> bool:
        """Whether one of the rows of the batch that is computed wears a LoRA of this layer; in graphs always."""
        return bool(self._slots.runs(self._table, rows))

    def add(self, values: Tensor, output: Tensor) -> None:
        """Adds what the LoRAs make of the layer's input to its output, in place."""
        size = output.shape[2:]
        flat = output.view(*output.shape[:2], -1).mT if self._is_convolution else _with_three_dimensions(output)
        for run in self._slots.runs(self._table, len(values)):
            if self._is_convolution:
                between = self._convolved(values[run.rows], run.ranks, size)
            else:
                between = torch.bmm(_with_three_dimensions(values[run.rows]), _taken(self.down, run.ranks).mT)
            flat[run.rows].baddbmm_(between, _taken(self.up, run.ranks))

    @property
    def _is_convolution(self) -> bool:
        return self.down.ndim > 2

    def _convolved(self, picture: Tensor, ranks: Tensor, size: Sequence[int]) -> Tensor:
        """(rows, in, h, w) to (rows, h' * w', ranks): a product for each place of the kernel, of all rows at once.

        Convolutions with other kernels for each row would be slower, one by one and in groups.
        """
        kernels = _taken(self.down, ranks).flatten(1, 2)  # (rows, ranks * places, in)
        products = torch.bmm(kernels, picture.flatten(2)).view(*ranks.shape, *self.base.kernel_size, *picture.shape[2:])
        between = products.new_zeros(*ranks.shape, *size)
        for row, column in product(*map(range, self.base.kernel_size)):
            (to_y, from_y), (to_x, from_x) = (
                self._seen(axis, place, picture, size) for axis, place in enumerate((row, column))
            )
            between[:, :, to_y, to_x] += products[:, :, row, column, from_y, from_x]
        return between.flatten(2).mT

    def _seen(self, axis: int, place: int, picture: Tensor, size: Sequence[int]) -> tuple[slice, slice]:
        """Of an axis of the picture: which pixels of the output a place of the kernel sees, and where."""
        stride = self.base.stride[axis]
        offset = place * self.base.dilation[axis] - self.base.padding[axis]
        first = max(0, -(offset // stride))
        count = min(size[axis], (picture.shape[2 + axis] - 1 - offset) // stride + 1) - first
        start = first * stride + offset
        return slice(first, first + count), slice(start, start + stride * (count - 1) + 1, stride)

    def _convolved_at_once(self, picture: Tensor, ranks: Tensor) -> Tensor:
        """All rows by one kernel, into which the LoRAs are added: the cost is that of the layer alone."""
        base = self.base
        kernel = base.weight.permute(0, 2, 3, 1)  # (out, height, width, in), as the LoRAs have theirs
        merged = torch.addmm(kernel.flatten(1), self.up[ranks].mT, self.down[ranks].flatten(1)).view(kernel.shape)
        return nn.functional.conv2d(
            picture, merged.permute(0, 3, 1, 2), base.bias, base.stride, base.padding, base.dilation
        )


def _with_three_dimensions(values: Tensor) -> Tensor:
    """(rows, …, channels), as a view."""
    return values.reshape(len(values), -1, values.shape[-1])


def _taken(pool: Tensor, ranks: Tensor) -> Tensor:
    """(all ranks, …) to (rows, ranks, …): as `pool[ranks]`, which takes twice the time."""
    return pool.index_select(0, ranks.flatten()).view(*ranks.shape, *pool.shape[1:])


def _after_zeros(ranks: Tensor) -> Tensor:
    return torch.cat([ranks.new_zeros(1, *ranks.shape[1:]), ranks])

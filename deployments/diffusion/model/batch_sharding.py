"""Shares of a batch: on a CPU each thread takes rows of its own through the whole UNet.

Threads that share every operation instead wait for the slowest of them a thousand times a step, and on cores that other
programs use too, one of them is always late. Sixteen rows at once are also more than a processor's cache holds.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Predict = Callable[[Tensor, Tensor, Tensors], Tensor]
"""Latents (rows, c, h, w), time steps (rows,) and conditions (rows, ...) to a prediction (rows, c, h, w)."""

MIN_SHARD_ROWS = 2  # of a share: with fewer, threads are faster together


def use_threads(count: int) -> None:
    """Have the calling thread compute with so many: torch gives a new one the number that any thread set last."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


class SingleRows:
    """Calls a function for every row by itself, always with one thread: its neighbours cannot change its last bits.

    Kernels choose the order of their sums by the size of the batch and by the number of threads; here both are one.
    """

    def __init__(self, threads: int) -> None:
        """As many rows at a time as there are `threads`; in the calling thread where that is 0, as on a GPU."""
        self._pool = _one_thread_each(threads) if threads else None

    def __call__(self, predict: Predict, latents: Tensor, timesteps: Tensor, conditions: Tensors) -> Tensor:
        def of(row: int) -> Tensor:
            return _predicted(predict, latents, timesteps, conditions, row, row + 1)

        each = map if self._pool is None else self._pool.map
        return torch.cat(list(each(of, range(len(latents)))))


class BatchSharding:
    """Calls a function for the rows of a batch, in as many threads as there are shares of some rows."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = _one_thread_each(max(threads, 1))

    def __call__(self, predict: Predict, latents: Tensor, timesteps: Tensor, conditions: Tensors) -> Tensor:
        """What `predict` gives for all rows; the calling thread's own threads compute it where they are few."""
        rows = len(latents)
        shares = min(self._threads, rows // MIN_SHARD_ROWS)
        if shares < 2:
            return predict(latents, timesteps, conditions)
        bounds = [rows * share // shares for share in range(shares + 1)]

        def of(begin: int, end: int) -> Tensor:
            return _predicted(predict, latents, timesteps, conditions, begin, end)

        return torch.cat(list(self._pool.map(of, bounds[:-1], bounds[1:])))


def _one_thread_each(threads: int) -> ThreadPoolExecutor:
    """OpenMP's number of threads is each thread's own: these compute alone."""
    return ThreadPoolExecutor(threads, "rows", initializer=torch.set_num_threads, initargs=(1,))


@torch.inference_mode()  # which is each thread's own, too
def _predicted(
    predict: Predict, latents: Tensor, timesteps: Tensor, conditions: Tensors, begin: int, end: int
) -> Tensor:
    part = {name: values[begin:end] for name, values in conditions.items()}
    return predict(latents[begin:end], timesteps[begin:end], part)

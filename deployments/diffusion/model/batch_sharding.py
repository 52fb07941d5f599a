"""Batch sharding: on a CPU each thread runs the whole UNet for its own rows.

Threads that share every operation instead synchronise about a thousand times a step, and on cores that other programs
use too, one of them is always late. Sixteen rows at once also exceed a processor's cache.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Predict = Callable[[Tensor, Tensor, Tensors], Tensor]
"""Latents (rows, c, h, w), time steps (rows,) and conditions (rows, ...) to a prediction (rows, c, h, w)."""

MIN_SHARD_ROWS = 2  # of a shard: with fewer, threads sharing each operation are faster


def use_threads(count: int) -> None:
    """Set torch's number of threads for the calling thread: a new thread inherits the number that was set last."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


class SingleRows:
    """Calls a function for each row alone, on one thread, so that results are bit-identical whatever the batch.

    Kernels choose the order of their sums by batch size and number of threads; here both are one.
    """

    def __init__(self, threads: int) -> None:
        """Runs `threads` rows in parallel; 0 runs them in the calling thread, as on a GPU."""
        self._pool = _one_thread_each(threads) if threads else None

    def __call__(self, predict: Predict, latents: Tensor, timesteps: Tensor, conditions: Tensors) -> Tensor:
        """The prediction of all rows, in the order of the batch; `predict` sees batches of one row."""

        def of(row: int) -> Tensor:
            return _predicted(predict, latents, timesteps, conditions, row, row + 1)

        each = map if self._pool is None else self._pool.map
        return torch.cat(list(each(of, range(len(latents)))))


class BatchSharding:
    """Calls a function for shards of a batch, each on its own thread."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = _one_thread_each(max(threads, 1))

    def __call__(self, predict: Predict, latents: Tensor, timesteps: Tensor, conditions: Tensors) -> Tensor:
        """The prediction of all rows. Small batches run on the calling thread with its torch threads."""
        rows = len(latents)
        shards = min(self._threads, rows // MIN_SHARD_ROWS)
        if shards < 2:
            return predict(latents, timesteps, conditions)
        bounds = [rows * shard // shards for shard in range(shards + 1)]

        def of(begin: int, end: int) -> Tensor:
            return _predicted(predict, latents, timesteps, conditions, begin, end)

        return torch.cat(list(self._pool.map(of, bounds[:-1], bounds[1:])))


def _one_thread_each(threads: int) -> ThreadPoolExecutor:
    """OpenMP's number of threads is per thread: each of these computes single-threaded."""
    return ThreadPoolExecutor(threads, "rows", initializer=torch.set_num_threads, initargs=(1,))


@torch.inference_mode()  # also per thread
def _predicted(
    predict: Predict, latents: Tensor, timesteps: Tensor, conditions: Tensors, begin: int, end: int
) -> Tensor:
    part = {name: values[begin:end] for name, values in conditions.items()}
    return predict(latents[begin:end], timesteps[begin:end], part)

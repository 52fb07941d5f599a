"""Rows of a batch shared among threads."""

import threading

import pytest
import torch
from torch import Tensor

from deployments.diffusion.model.batch_sharding import BatchSharding, SingleRows, Tensors


class Net:
    """Notes who called it with how many rows, and with how many threads of their own."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def __call__(self, latents: Tensor, timesteps: Tensor, conditions: Tensors) -> Tensor:
        assert torch.is_inference_mode_enabled()
        assert {len(timesteps), *map(len, conditions.values())} == {len(latents)}
        self.calls.append((threading.current_thread().name.partition("_")[0], len(latents), torch.get_num_threads()))
        return latents * timesteps[:, None] + conditions["scale"]


def batch(rows: int) -> tuple[Tensor, Tensor, Tensors]:
    drawn = torch.Generator().manual_seed(rows)
    latents, timesteps, scale = (torch.rand(rows, *shape, generator=drawn) for shape in [(3,), (), (1,)])
    return latents, timesteps, {"scale": scale}


@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 13, 16])
def test_every_row_gets_its_own_answer_in_its_own_place(rows: int, threads: int) -> None:
    net, given = Net(), batch(rows)
    assert torch.equal(BatchSharding(threads)(net, *given), Net()(*given))
    assert sum(count for _name, count, _threads in net.calls) == rows
    assert len(net.calls) <= threads


@torch.inference_mode()
def test_threads_that_have_rows_of_their_own_compute_alone() -> None:
    net = Net()
    BatchSharding(2)(net, *batch(9))
    assert sorted(net.calls) == [("rows", 4, 1), ("rows", 5, 1)]


@torch.inference_mode()
def test_few_rows_stay_together_in_the_thread_that_has_them() -> None:
    net = Net()
    BatchSharding(2)(net, *batch(3))
    assert net.calls == [(threading.current_thread().name, 3, torch.get_num_threads())]


@torch.inference_mode()
def test_an_error_in_one_share_is_the_callers() -> None:
    def fails_at_zero(latents: Tensor, timesteps: Tensor, conditions: Tensors) -> Tensor:
        if (timesteps == 0).any():
            raise torch.OutOfMemoryError("no memory for this share")
        return latents

    latents, timesteps, conditions = batch(8)
    timesteps[7] = 0
    sharding = BatchSharding(2)
    with pytest.raises(torch.OutOfMemoryError, match="this share"):
        sharding(fails_at_zero, latents, timesteps, conditions)
    assert len(sharding(fails_at_zero, latents, timesteps + 1, conditions)) == 8


def by_the_batch(latents: Tensor, timesteps: Tensor, _conditions: Tensors) -> Tensor:
    """Kernels in the extreme: the sums of a row depend on how many rows and threads there are."""
    return latents * timesteps[:, None] + len(latents) + 0.1 * torch.get_num_threads()


@torch.inference_mode()
@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("rows", [1, 2, 5, 16])
def test_a_single_row_is_computed_as_if_there_were_no_other(rows: int, threads: int) -> None:
    torch.set_num_threads(1)  # those of the calling thread, which computes where there are 0
    latents, timesteps, conditions = batch(rows)
    together = SingleRows(threads)(by_the_batch, latents, timesteps, conditions)
    for row in range(rows):
        alone = [values[row : row + 1] for values in (latents, timesteps)]
        assert torch.equal(together[row : row + 1], by_the_batch(*alone, {}))


@torch.inference_mode()
def test_single_rows_are_shared_among_threads_that_compute_alone() -> None:
    net, given = Net(), batch(7)
    assert torch.equal(SingleRows(2)(net, *given), Net()(*given))
    assert net.calls == [("rows", 1, 1)] * 7

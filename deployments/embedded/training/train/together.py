"""One process a core, each with its own batches: that beats many threads where other work shares the machine."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn


class Together:
    """Processes that train one model on different batches; alone, all of this does nothing."""

    def __init__(self) -> None:
        joined = dist.is_initialized()
        self.rank, self.count = (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)

    def average(self, model: nn.Module, seconds: float) -> float:
        """Means of the gradients, in place, and of the time, so that all stay alike to the bit."""
        if self.count == 1:
            return seconds
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor([seconds])])
        dist.all_reduce(flat)
        flat /= self.count
        place = 0
        for gradient in gradients:
            gradient.copy_(flat[place : place + gradient.numel()].view_as(gradient))
            place += gradient.numel()
        return float(flat[-1])


def run_together(workers: int, meeting: Path, train: Callable[[], None]) -> None:
    """Calls `train`, which must be picklable, in `workers` processes that share the threads of this one.

    They meet through the file `meeting`.
    """
    meeting.unlink(missing_ok=True)
    if workers == 1:
        train()
    else:
        arguments = (workers, meeting, torch.get_num_threads(), train)
        spawn(train_as_one_of, arguments, nprocs=workers)  # type: ignore[no-untyped-call]


def train_as_one_of(rank: int, workers: int, meeting: Path, threads: int, train: Callable[[], None]) -> None:
    """One process of `workers`; `threads` are those of all together."""
    torch.set_num_threads(max(1, threads // workers))
    torch.set_flush_denormal(True)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers)
    train()
    dist.destroy_process_group()

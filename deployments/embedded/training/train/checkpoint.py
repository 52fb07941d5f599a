"""How long a training lasts, and the file from which an interrupted one goes on."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deployments.embedded.training.train.optimiser import MatrixOptimiser

WARM_STEPS = 40


@dataclass(frozen=True, slots=True)
class Length:
    """How long a training is, with what earlier runs did from the same checkpoint: by steps, or else by minutes."""

    steps: int
    minutes: float | None = None

    def done(self, step: int, seconds: float) -> float:
        """The share that is done; it ends at 1."""
        return step / self.steps if self.minutes is None else seconds / (60 * self.minutes)

    def rate(self, step: int, seconds: float) -> float:
        """Of the peak learning rates: a short rise, then half a cosine."""
        return min((step + 1) / WARM_STEPS, (1 + math.cos(math.pi * self.done(step, seconds))) / 2)


def restored(path: Path, network: nn.Module, optimiser: MatrixOptimiser) -> tuple[int, float]:
    """Steps and seconds of a checkpoint of `save`, which is loaded; none where there is no such file."""
    if not path.exists():
        return 0, 0.0
    done: dict[str, Any] = torch.load(path, weights_only=True)
    network.load_state_dict(done["network"])
    optimiser.load_state_dict(done["optimiser"])
    return done["step"], done["seconds"]


def save(path: Path, network: nn.Module, optimiser: MatrixOptimiser, step: int, seconds: float) -> None:
    """A checkpoint, written whole or not at all."""
    draft = path.with_suffix(".draft")
    state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "seconds": seconds}
    torch.save(state, draft)
    draft.rename(path)

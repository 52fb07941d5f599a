"""What models take of a device together: the weights of all, but the working memory of one."""

from collections.abc import Iterable
from typing import NamedTuple


class ModelMemory(NamedTuple):
    """GB of the device: what a model keeps, and what its steps and pictures take beside that."""

    weights_gb: float
    working_gb: float = 0.0

    @property
    def total_gb(self) -> float:
        """Of the model alone."""
        return self.weights_gb + self.working_gb


def together_gb(models: Iterable[ModelMemory]) -> float:
    """What the models of one replica take: one of them draws at a time, in memory that the next one draws in."""
    each = list(models)
    return sum(model.weights_gb for model in each) + max((model.working_gb for model in each), default=0.0)

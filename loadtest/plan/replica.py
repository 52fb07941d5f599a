"""A generator replica in simulated time: its models, its engine, and what it is busy with."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deployments.diffusion.engine.scheduler import Row
from deployments.diffusion.routing_stats import RecentRows
from deployments.model_memory import ModelMemory, together_gb
from deployments.types import AvatarSpec
from loadtest.plan.engine import SimulatedEngine

State = Literal["starting", "running", "draining", "ended"]


@dataclass(slots=True)
class Entry:
    """A model that is loaded or loading."""

    leases: int = 0
    is_loaded: bool = False


class LoadedModels:
    """`ModelCache` without its event loop: who loads tells it when a model is there."""

    def __init__(self, sizes: Mapping[str, ModelMemory], budget_gb: float | None) -> None:
        self._sizes = sizes
        self._budget_gb = math.inf if budget_gb is None else budget_gb
        self._entries: dict[str, Entry] = {}  # the most recently used last
        self.loads = 0

    def __contains__(self, name: object) -> bool:
        """Whether a model is loaded."""
        entry = self._entries.get(name)  # type: ignore[call-overload]
        return entry is not None and entry.is_loaded

    @property
    def loaded(self) -> list[str]:
        """Names of the loaded models, the least recently leased one first."""
        return [name for name, entry in self._entries.items() if entry.is_loaded]

    def fitting(self) -> list[str]:
        """The first models that fit into memory together."""
        names: list[str] = []
        for name in self._sizes:
            if self._fit([*names, name]):
                names.append(name)
        return names

    def is_known(self, name: str) -> bool:
        """Whether it is loaded or loading."""
        return name in self._entries

    def fits_beside(self, name: str) -> bool:
        """Whether it would fit beside those that are there."""
        return self._fit([*self._entries, name])

    def lease(self, name: str) -> bool:
        """Keep a model in memory; one that is not known begins to load. False where leased ones leave no room."""
        entry = self._entries.pop(name, None)
        if entry is None:
            if not self._evict_for(name):
                return False
            entry = Entry()
            self.loads += 1
        self._entries[name] = entry
        entry.leases += 1
        return True

    def release(self, name: str) -> bool:
        """End a lease; whether it was the last one, so that the model may make room."""
        self._entries[name].leases -= 1
        return not self._entries[name].leases

    def has_loaded(self, name: str) -> None:
        """The load of a model has ended."""
        self._entries[name].is_loaded = True

    def _fit(self, names: Iterable[str]) -> bool:
        return together_gb(self._sizes[name] for name in names) <= self._budget_gb

    def _evict_for(self, new: str) -> bool:
        idle = [name for name, entry in self._entries.items() if not entry.leases]
        if not self._fit([*(self._entries.keys() - idle), new]):
            return False
        while not self._fit([*self._entries, new]):
            del self._entries[idle.pop(0)]
        return True


@dataclass(slots=True, eq=False)
class Node:
    """A machine with GPUs, paid from `ordered_at` to `released_at`."""

    gpus: int
    ordered_at: float
    ready_at: float
    released_at: float | None = None
    idle_since: float | None = None
    replicas: "set[GeneratorReplica]" = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Image:
    """An image that is asked for. `job` is what it belongs to."""

    number: int
    spec: AvatarSpec
    job: Any
    is_over: bool = False  # drawn or late


@dataclass(slots=True, eq=False)
class GeneratorReplica:
    """A replica on one GPU of a node. `ongoing` are its calls, by the number of the image, in order of arrival."""

    number: int
    node: Node
    models: LoadedModels
    engine: SimulatedEngine
    state: State = "starting"
    ready_at: float = 0.0
    drains_since: float = 0.0
    ongoing: dict[int, Image] = field(default_factory=dict)
    rows: dict[Row, Image] = field(default_factory=dict)  # those that reached the engine
    loading: dict[str, list[Image]] = field(default_factory=dict)  # those that wait for a model, by its name
    unleased: list[Image] = field(default_factory=list)  # those whose model has no room yet
    recent_rows: RecentRows = field(default_factory=RecentRows)
    woken_for: float = math.inf  # the moment of its pending wake-up

"""The models of one replica: loaded when they are first asked for, as many as its memory holds."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

M = TypeVar("M")
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Place(Generic[M]):
    """One model in memory, or on its way there."""

    loading: "asyncio.Task[M]"
    leases: int = 0


@dataclass(slots=True)
class ModelPool(Generic[M]):
    """Models by name. While somebody holds a lease on one it stays; else the one unused for longest makes room.

    `load` is called in a thread of its own. `sizes_gb` and `budget_gb` are of the device's memory; without a
    budget nothing is ever put out.
    """

    load: Callable[[str], M]
    sizes_gb: Mapping[str, float]
    budget_gb: float | None = None
    _places: dict[str, Place[M]] = field(default_factory=dict)  # the one used last comes last
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        for name, size_gb in self.sizes_gb.items():
            if self.budget_gb is not None and size_gb > self.budget_gb:
                raise ValueError(f"model {name} takes {size_gb:g} GB, more than the {self.budget_gb:g} GB there are")

    @property
    def loaded(self) -> list[str]:
        return [name for name, place in self._places.items() if place.loading.done()]

    def fitting(self) -> list[str]:
        """The first models, in the order in which they were named, that fit into memory together."""
        names: list[str] = []
        for name in self.sizes_gb:
            if self.budget_gb is None or sum(map(self.sizes_gb.__getitem__, [*names, name])) <= self.budget_gb:
                names.append(name)
        return names

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[M]:
        """The model, which stays while the block runs. Raises: KeyError for an unknown one; what `load` raises."""
        place = await self._take(name)
        try:
            yield await asyncio.shield(place.loading)  # whoever gives up waiting does not stop it for the others
        finally:
            async with self._changed:
                place.leases -= 1
                if place.loading.done() and (place.loading.cancelled() or place.loading.exception()):
                    self._places.pop(name, None)  # the next one tries again
                self._changed.notify_all()

    async def _take(self, name: str) -> Place[M]:
        size_gb = self.sizes_gb[name]
        async with self._changed:
            while name not in self._places and not self._make_room(size_gb):
                await self._changed.wait()
            place = self._places.pop(name, None) or Place(asyncio.create_task(self._load(name)))
            self._places[name] = place
            place.leases += 1
            return place

    def _make_room(self, size_gb: float) -> bool:
        """Put out what nobody holds until the model fits; false where too much is held."""
        if self.budget_gb is None:
            return True
        used_gb = sum(self.sizes_gb[name] for name in self._places)
        idle = [name for name, place in self._places.items() if not place.leases]
        while used_gb + size_gb > self.budget_gb and idle:
            name = idle.pop(0)
            used_gb -= self.sizes_gb[name]
            del self._places[name]
            log.info("model %s makes room", name)
        return used_gb + size_gb <= self.budget_gb

    async def _load(self, name: str) -> M:
        # A thread that ends with the load: OpenMP keeps its team for every thread that ever computed, and two teams on
        # the same cores slow each other.
        loader = ThreadPoolExecutor(1, "load")
        try:
            return await asyncio.get_running_loop().run_in_executor(loader, self.load, name)
        finally:
            loader.shutdown(wait=False)

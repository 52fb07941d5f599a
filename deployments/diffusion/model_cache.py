"""The models of one replica: loaded on first use, and evicted by least recent use to stay within its memory."""

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from deployments.model_memory import ModelMemory, together_gb

M = TypeVar("M")
log = logging.getLogger(__name__)


@dataclass(slots=True)
class CacheEntry(Generic[M]):
    """One model that is loaded or loading."""

    loading: "asyncio.Task[M]"
    leases: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether it is loaded and not leased; what loads takes memory until it has ended, also if all gave up."""
        return self.loading.done() and not self.leases


@dataclass(slots=True)
class ModelCache(Generic[M]):
    """Models by name. A leased model stays; otherwise the least recently used one is evicted. Not thread-safe.

    `load` is called on its own thread. `sizes` and `budget_gb` are of the device's memory; without a budget nothing is
    evicted.
    """

    load: Callable[[str], M]
    sizes: Mapping[str, ModelMemory]
    budget_gb: float | None = None
    _entries: dict[str, CacheEntry[M]] = field(default_factory=dict)  # the most recently used last
    _changed: asyncio.Event = field(default_factory=asyncio.Event)  # a new one after each change
    _has_garbage: bool = False  # of models that were evicted, or failed to load
    _load_s: dict[str, float] = field(default_factory=dict)  # of the last load of each

    def __post_init__(self) -> None:
        for name in self.sizes:
            if not self._fit([name]):
                size_gb = self.sizes[name].total_gb
                raise ValueError(f"model {name} takes {size_gb:g} GB, more than the {self.budget_gb:g} GB there are")

    @property
    def loaded(self) -> list[str]:
        """Names of the models that are loaded, the least recently leased one first."""
        return [name for name, entry in self._entries.items() if entry.loading.done()]

    @property
    def loads_s(self) -> dict[str, float]:
        """The models that are loaded, and the seconds that it took."""
        return {name: self._load_s[name] for name in self.loaded}

    @property
    def coming(self) -> list[str]:
        """Names of the models that are being loaded."""
        return [name for name, entry in self._entries.items() if not entry.loading.done()]

    def expected_loads_s(self) -> dict[str, float]:
        """Seconds that a load of each model takes: as it last took here, else by its weights as others took."""
        measured_gb = sum(self.sizes[name].weights_gb for name in self._load_s)
        if not measured_gb:
            return dict(self._load_s)
        s_per_gb = sum(self._load_s.values()) / measured_gb
        return {name: self._load_s.get(name, s_per_gb * size.weights_gb) for name, size in self.sizes.items()}

    def fitting(self) -> list[str]:
        """The first models, in the order of `sizes`, that fit into memory together."""
        names: list[str] = []
        for name in self.sizes:
            if self._fit([*names, name]):
                names.append(name)
        return names

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[M]:
        """The model, kept in memory while the block runs. Raises: KeyError for an unknown one; what `load` raises."""
        entry = await self._take(name)
        try:
            yield await asyncio.shield(entry.loading)  # a cancelled caller does not cancel the load for others
        finally:
            entry.leases -= 1
            self._note_change()

    async def preload(self, name: str) -> None:
        """Load a model unless it is there or would not fit beside those that are. Raises: what `load` raises."""
        if name not in self._entries and self._fit([*self._entries, name]):
            async with self.lease(name):
                pass

    def _fit(self, names: Iterable[str]) -> bool:
        return self.budget_gb is None or together_gb(self.sizes[name] for name in names) <= self.budget_gb

    async def _take(self, name: str) -> CacheEntry[M]:
        if name not in self.sizes:
            raise KeyError(name)
        while name not in self._entries and not self._evict_for(name):
            await self._changed.wait()
        entry = self._entries.pop(name, None) or CacheEntry(asyncio.create_task(self._load(name)))
        self._entries[name] = entry
        entry.leases += 1
        return entry

    def _note_change(self) -> None:
        """A model may have room now."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _evict_for(self, new: str) -> bool:
        """Evict idle models until the new one fits; False, and none is evicted, where the others leave too little."""
        idle = [name for name, entry in self._entries.items() if entry.is_idle]
        if not self._fit([*(self._entries.keys() - idle), new]):
            return False
        while not self._fit([*self._entries, new]):
            name = idle.pop(0)
            del self._entries[name]
            self._has_garbage = True
            log.info("evicted model %s", name)
        return True

    async def _load(self, name: str) -> M:
        if self._has_garbage:
            # Models, compiled ones above all, are in reference cycles: an evicted one is freed by the collector only.
            self._has_garbage = False
            await asyncio.to_thread(gc.collect)
        # A thread that ends with the load: OpenMP keeps a team of threads for every thread that ever computed, and two
        # teams on the same cores slow each other.
        loader, started = ThreadPoolExecutor(1, "load"), time.monotonic()
        try:
            model = await asyncio.get_running_loop().run_in_executor(loader, self.load, name)
            self._load_s[name] = time.monotonic() - started
            return model
        except BaseException:
            del self._entries[name]  # the next lease retries the load
            self._has_garbage = True
            raise
        finally:
            loader.shutdown(wait=False)
            self._note_change()

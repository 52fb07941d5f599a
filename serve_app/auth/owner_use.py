"""What each owner used recently before the generator: time of decoders and credential reader, and refused requests.

It is one figure, seconds of work that decay, and every stage obeys it: decoders, embedder, queue and generator, which
adds the time of its own steps. A client that keeps retrying after a refusal so goes behind the others by itself.
"""

import asyncio
import time
from functools import partial
from pathlib import Path

from deployments.common.fair_share import HALF_LIFE_S, FairShare
from serve_app.backends.lua import Script
from serve_app.backends.redis import Redis

REFUSED_S = 1.0  # what a refused request counts
MAX_REFUSED_S = 120.0  # beyond it, further refusals count nothing: a broken client recovers within minutes
FLOODING_S = 10.0  # an owner that used more goes behind in the queue; a usual photo is decoded in a tenth of a second
SHARE_S = 1.0  # between two exchanges with the other processes
KEPT_S = round(10 * HALF_LIFE_S)
NOT_SHARED = "each process knows only what owners used in it"


class OwnerUse:
    """Each process counts at once and exchanges with the others through the broker. Lives on one event loop."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._add = Script(redis, Path(__file__).with_name("add_use.lua"))
        self._shared = FairShare()
        self._unshared: dict[str, float] = {}  # seconds by owner, not in the broker yet
        self._sharer: asyncio.Task[None] | None = None

    def used_s(self, owner: str) -> float:
        """What an owner used recently, as far as this process knows, seconds."""
        return self._shared.used_s(owner, time.time()) + self._unshared.get(owner, 0.0)

    def is_flooding(self, owner: str) -> bool:
        """Whether an owner used more than FLOODING_S recently: its requests are delayed, its tasks get low priority."""
        return self.used_s(owner) > FLOODING_S

    def charge(self, owner: str, seconds: float) -> None:
        """Add seconds of work to an owner, in other processes within about SHARE_S; `""` is nobody and not charged."""
        if not owner or seconds <= 0:
            return
        self._unshared[owner] = self._unshared.get(owner, 0.0) + seconds
        if self._sharer is None:
            self._sharer = asyncio.create_task(self._share_often())

    def charge_refusal(self, owner: str) -> None:
        """Count a request that was refused because of its owner's own use."""
        self.charge(owner, min(REFUSED_S, MAX_REFUSED_S - self.used_s(owner)))

    async def shared_s(self, owner: str) -> float:
        """What an owner used recently in all processes; in this one while the broker is unavailable. Seconds."""
        if owner:
            await self._share(owner)
        return self.used_s(owner)

    async def close(self) -> None:
        """Stop the exchange; what is not in the broker yet is lost."""
        if self._sharer is not None:
            self._sharer.cancel()

    async def _share_often(self) -> None:
        while True:
            await asyncio.sleep(SHARE_S)
            for owner in list(self._unshared):
                await self._share(owner)

    async def _share(self, owner: str) -> None:
        """Add what is not shared yet to the sum in the broker, and take over that sum."""
        used_s, added_s = self.used_s(owner), self._unshared.pop(owner, 0.0)
        self._shared.note_elsewhere(owner, used_s, time.time())
        add = partial(
            self._add, use=self._redis.key("use", owner), added_s=added_s, half_life_s=HALF_LIFE_S, ttl_s=KEPT_S
        )
        total_s = await self._redis.breaker.call(add, None, NOT_SHARED)
        if total_s is not None:
            self._shared.note_elsewhere(owner, float(total_s), time.time())
        elif added_s:
            self._shared.note_elsewhere(owner, used_s - added_s, time.time())
            self._unshared[owner] = self._unshared.get(owner, 0.0) + added_s

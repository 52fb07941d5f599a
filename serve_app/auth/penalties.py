"""Tokens that go on asking for more than they may: what they do get goes behind the work of others for a while."""

import math
import time

from redis.asyncio import Redis

from serve_app.backends.circuit_breaker import Outage
from serve_app.backends.redis import broker_errors
from serve_app.errors import BrokerError
from serve_app.tasks.keys import Keys

MANY = 3  # refusals; a client that heeds `Retry-After` gets one
WITHIN_S = 10.0
REMEMBERED_S = 30


class Greed:
    """Counted by each process for itself, and told to all through the broker, where that answers."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._outage = Outage()
        self._refusals: dict[str, tuple[float, int]] = {}  # since when (monotonic), and how many
        self._shown_at: dict[str, float] = {}  # monotonic

    async def refused(self, token: str) -> None:
        """It asked for more than it may."""
        now = time.monotonic()
        since, count = self._refusals.get(token, (now, 0))
        if now - since > WITHIN_S:
            since, count = now, 0
        self._refusals[token] = since, count + 1
        if count + 1 == MANY:
            self._shown_at[token] = now
            await self._tell(token)

    def shown_here(self, token: str) -> bool:
        """Of late, to this process."""
        return time.monotonic() - self._shown_at.get(token, -math.inf) < REMEMBERED_S

    async def shown_by(self, token: str) -> bool:
        """Of late, to any process."""
        if self.shown_here(token):
            return True
        if not token or self._outage.lasts:
            return False
        try:
            async with broker_errors():
                return bool(await self._redis.exists(self._keys.greedy(token)))
        except BrokerError as error:
            self._outage.begin(error, "nobody stands back")
            return False

    async def _tell(self, token: str) -> None:
        if self._outage.lasts:
            return
        try:
            async with broker_errors():
                await self._redis.set(self._keys.greedy(token), "", ex=REMEMBERED_S)
        except BrokerError as error:
            self._outage.begin(error, "nobody stands back")

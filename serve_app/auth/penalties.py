"""Tokens that go on asking for more than they may: what they do get goes behind the work of others for a while."""

import math
import time

from redis.asyncio import Redis

from serve_app.backends.circuit_breaker import CircuitBreaker
from serve_app.tasks.models import Keys

MANY = 3  # refusals; a client that heeds `Retry-After` gets one
WITHIN_S = 10.0
REMEMBERED_S = 30
NOT_SHARED = "each process knows only the refusals that it gave itself"


class Penalties:
    """Counted by each process for itself, and told to all through the broker, where that answers."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._breaker = CircuitBreaker()
        self._refusals: dict[str, tuple[float, int]] = {}  # since when (monotonic), and how many
        self._penalised_at: dict[str, float] = {}  # monotonic

    async def count_refusal(self, token: str) -> None:
        """It asked for more than it may."""
        now = time.monotonic()
        since, count = self._refusals.get(token, (now, 0))
        if now - since > WITHIN_S:
            since, count = now, 0
        self._refusals[token] = since, count + 1
        if count + 1 == MANY:
            self._penalised_at[token] = now
            key = self._keys.penalty(token)
            await self._breaker.call(lambda: self._redis.set(key, "", ex=REMEMBERED_S), None, NOT_SHARED)

    def is_penalised_here(self, token: str) -> bool:
        """Of late, to this process."""
        return time.monotonic() - self._penalised_at.get(token, -math.inf) < REMEMBERED_S

    async def is_penalised(self, token: str) -> bool:
        """Of late, to any process."""
        if self.is_penalised_here(token):
            return True
        key = self._keys.penalty(token)
        return bool(token and await self._breaker.call(lambda: self._redis.exists(key), 0, NOT_SHARED))

"""Clients that keep retrying after a 429 are deprioritised for a while, counted by token."""

import math
import time

from redis.asyncio import Redis

from serve_app.backends.circuit_breaker import CircuitBreaker
from serve_app.tasks.models import Keys

MAX_REFUSALS = 3  # a client that respects `Retry-After` gets one
WITHIN_S = 10.0
PENALTY_S = 30
NOT_SHARED = "each process counts only its own refusals"


class Penalties:
    """Each process counts its own refusals; penalties are shared through the broker while it is available."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._breaker = CircuitBreaker()
        self._refusals: dict[str, tuple[float, int]] = {}  # start of the count (monotonic), and count
        self._penalised_at: dict[str, float] = {}  # monotonic

    async def count_refusal(self, token: str) -> None:
        """Count a 429; too many within WITHIN_S start a penalty."""
        now = time.monotonic()
        since, count = self._refusals.get(token, (now, 0))
        if now - since > WITHIN_S:
            since, count = now, 0
        self._refusals[token] = since, count + 1
        if count + 1 == MAX_REFUSALS:
            self._penalised_at[token] = now
            key = self._keys.penalty(token)
            await self._breaker.call(lambda: self._redis.set(key, "", ex=PENALTY_S), None, NOT_SHARED)

    def is_penalised_here(self, token: str) -> bool:
        """Whether this process penalised the token in the last PENALTY_S."""
        return time.monotonic() - self._penalised_at.get(token, -math.inf) < PENALTY_S

    async def is_penalised(self, token: str) -> bool:
        """Whether any process penalised the token in the last PENALTY_S."""
        if self.is_penalised_here(token):
            return True
        key = self._keys.penalty(token)
        return bool(token and await self._breaker.call(lambda: self._redis.exists(key), 0, NOT_SHARED))

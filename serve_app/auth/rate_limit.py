"""Rate limits: requests of a token in a time window, counted over all ingress replicas.

Counts are kept in Redis. While it is unavailable, rate limits are not enforced; `FairSlots` still bound each
replica.
"""

import math
import time
from typing import Any, NamedTuple

from limits import RateLimitItemPerSecond, WindowStats
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter

from serve_app.auth.recent import Recent
from serve_app.backends.redis import Redis, broker_errors
from serve_app.errors import RateLimitError

MAX_WINDOW_S = 60  # of any rate


class Quota(NamedTuple):
    """The rest of a limit: `remaining` requests now, and seconds until one more is allowed."""

    rate: "Rate"
    remaining: int
    reset_s: int

    def headers(self) -> dict[str, str]:
        """As in draft-ietf-httpapi-ratelimit-headers-06."""
        return {
            "RateLimit-Limit": str(self.rate.requests),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_s),
            "RateLimit-Policy": f"{self.rate.requests};w={self.rate.window_s}",
        }


class Rate(NamedTuple):
    """`requests` in any `window_s` seconds."""

    requests: int
    window_s: int


class Rates:
    """Counts requests by name, in a moving window: with fixed windows, the requests of two could come at once."""

    def __init__(self, redis: Redis) -> None:
        pool: Any = redis.connection_pool
        storage = RedisStorage(
            "async+redis://", implementation="redispy", key_prefix=redis.key("rate"), connection_pool=pool
        )
        self._windows = MovingWindowRateLimiter(storage)
        self._breaker = redis.breaker
        # Unix seconds; until then requests are refused without asking the broker.
        self._full_until: Recent[float] = Recent(MAX_WINDOW_S)

    async def hit(self, name: str, rate: Rate) -> Quota | None:
        """Count a request; None while the broker is unavailable. Raises: RateLimitError."""
        if (full_until := self._full_until.get(name) or 0.0) > time.time():
            raise _too_many(Quota(rate, 0, _seconds_until(full_until)))
        counted = await self._breaker.call(lambda: self._count(name, rate), None, "rate limits are not enforced")
        if counted is None:
            return None
        fits, window = counted
        quota = Quota(rate, max(0, window.remaining), _seconds_until(window.reset_time))
        self._full_until.forget(name)
        if not fits:
            self._full_until.set(name, window.reset_time)
            raise _too_many(quota)
        return quota

    async def _count(self, name: str, rate: Rate) -> tuple[bool, WindowStats]:
        """Whether the request is within the rate, and the state of the window then. Raises: BrokerError."""
        item = RateLimitItemPerSecond(*rate)
        async with broker_errors():  # the storage uses its own client
            return await self._windows.hit(item, name), await self._windows.get_window_stats(item, name)


def _too_many(quota: Quota) -> RateLimitError:
    requests, window_s = quota.rate
    message = f"This token may send {requests} such requests in {window_s} s."
    return RateLimitError(message, quota.reset_s, headers=quota.headers())


def _seconds_until(unix_s: float) -> int:
    return max(1, math.ceil(unix_s - time.time()))

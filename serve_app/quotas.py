"""How much a token may ask for: requests in a minute, and images at once. Both count over all ingress replicas.

They live in the broker. While it is away nobody is refused here: `Admission` still bounds what one replica takes on.
"""

import contextlib
import math
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import Redis

from serve_app.broker import broker_errors
from serve_app.errors import BrokerError, ForbiddenError, RateLimitError
from serve_app.outage import Outage
from serve_app.task_keys import Keys
from serve_app.task_models import LEASE_S

PLACES_TTL_S = 2 * 3600  # longer than any request lasts

# KEYS: the places of a token; ARGV: task, its images, how many places there are, prefix of leases, seconds within which
# a lease is taken. A place lasts as long as the lease of its task: those of a dead process are free as soon as its own.
TAKE = """
local now, taken = redis.call('TIME')[1], 0
local places = redis.call('HGETALL', KEYS[1])
for at = 1, #places, 2 do
    local images, since = string.match(places[at + 1], '^(%d+) (%d+)$')
    if now - since <= tonumber(ARGV[5]) or redis.call('EXISTS', ARGV[4] .. places[at]) == 1 then
        taken = taken + images
    else
        redis.call('HDEL', KEYS[1], places[at])
    end
end
if taken + ARGV[2] > tonumber(ARGV[3]) then return taken end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. now)
redis.call('EXPIRE', KEYS[1], ARGV[6])
return -1
"""


class Quota(NamedTuple):
    """What is left of a limit: `remaining` requests now, and `reset_s` until one more."""

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
    """So many requests in any `window_s` seconds."""

    requests: int
    window_s: int


class Rates:
    """Requests of the last while, by name: a moving window, so that no two windows' worth come at once."""

    def __init__(self, redis: Redis, prefix: str, outage: Outage) -> None:
        pool: Any = redis.connection_pool
        storage = RedisStorage("async+redis://", implementation="redispy", key_prefix=prefix, connection_pool=pool)
        self._windows = MovingWindowRateLimiter(storage)
        self._outage = outage
        self._full_until: dict[str, float] = {}  # unix seconds; who goes on asking costs no call of the broker

    async def hit(self, name: str, rate: Rate) -> Quota | None:
        """Count a request; None where nothing is known of others. Raises: RateLimitError."""
        if self._outage.lasts:
            return None
        if (full_until := self._full_until.get(name, 0.0)) > time.time():
            raise _too_many(Quota(rate, 0, _seconds_until(full_until)))
        item = RateLimitItemPerSecond(*rate)
        try:
            async with broker_errors():
                counted = await self._windows.hit(item, name)
                window = await self._windows.get_window_stats(item, name)
        except BrokerError as error:
            self._outage.begin(error, "nobody is held to a rate")
            return None
        quota = Quota(rate, max(0, window.remaining), _seconds_until(window.reset_time))
        self._full_until.pop(name, None)
        if not counted:
            self._full_until[name] = window.reset_time
            raise _too_many(quota)
        return quota


def _too_many(quota: Quota) -> RateLimitError:
    requests, window_s = quota.rate
    message = f"This token may send {requests} such requests in {window_s} s."
    return RateLimitError(message, quota.reset_s, headers=quota.headers())


def _seconds_until(unix_s: float) -> int:
    return max(1, math.ceil(unix_s - time.time()))


class Places:
    """Images being made at once, of each token."""

    def __init__(self, redis: Redis, keys: Keys, outage: Outage, retry_after_s: int) -> None:
        self._redis = redis
        self._keys = keys
        self._outage = outage
        self._retry_after_s = retry_after_s
        self._take = redis.register_script(TAKE)

    @contextlib.asynccontextmanager
    async def hold(self, token: str, task_id: str, images: int, most: int) -> AsyncIterator[None]:
        """Places for the images of a task while the block runs; `most`: what the token may have, 0: any number.

        Raises: ForbiddenError where these are more than it may ever have; RateLimitError.
        """
        if most and images > most:
            raise ForbiddenError(f"This token may have {most} images made at once.", accepted=f"a batch of 1 to {most}")
        held = bool(most) and await self._hold(token, task_id, images, most)
        try:
            yield
        finally:
            if held:
                await self._free(token, task_id)

    async def _hold(self, token: str, task_id: str, images: int, most: int) -> bool:
        if self._outage.lasts:
            return False
        arguments: list[str | int] = [task_id, images, most, self._keys.lease(""), math.ceil(LEASE_S), PLACES_TTL_S]
        try:
            async with broker_errors():
                taken = int(await self._take([self._keys.places(token)], arguments))
        except BrokerError as error:
            self._outage.begin(error, "nobody is held to a number of images")
            return False
        if taken >= 0:
            message = f"{taken} images of this token are being made; it may have {most} at once."
            raise RateLimitError(message, self._retry_after_s)
        return True

    async def _free(self, token: str, task_id: str) -> None:
        try:
            async with broker_errors():
                await self._redis.hdel(self._keys.places(token), task_id)
        except BrokerError as error:
            self._outage.begin(error, "places go with their leases")

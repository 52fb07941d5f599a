"""How many images a token may have made a day (UTC), counted over all ingress replicas when a request is accepted."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from deployments.errors import NoFaceError, NotBegunError
from serve_app.auth.usage import DAY_S, day_of
from serve_app.backends.lua import Script
from serve_app.backends.redis import Redis
from serve_app.errors import ImageUrlError, RateLimitError, RequestError

NOTHING_DRAWN = (RequestError, ImageUrlError, NoFaceError, NotBegunError)  # or for nothing, by a fault of ours


class ImageQuota:
    """The images a day of each token. Not enforced while the broker is unavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._take_script = Script(redis, Path(__file__).with_name("take_images.lua"))
        self._give_back_script = Script(redis, Path(__file__).with_name("give_back_images.lua"))

    @asynccontextmanager
    async def take(self, token: str, images: int, most: int, accepted_at: float | None = None) -> AsyncIterator[None]:
        """Count images; `most` is the token's limit a day, 0: none. `accepted_at`: of their request, unix seconds.

        They are taken off again if the block fails with one of NOTHING_DRAWN. After other failures, and cancellations,
        they stay, since they may have been drawn by then. Raises: RateLimitError.
        """
        key = self._key(token, accepted_at or time.time())
        taken = await self._count(key, images, most) if most else None
        if taken is not None and taken >= 0:
            message = f"This token may have {most} images made a day (UTC), of which {max(0, most - taken)} are left."
            raise RateLimitError(message, _seconds_to_midnight())
        try:
            yield
        except NOTHING_DRAWN:
            if taken is not None:
                await self._give_back(key, images)
            raise

    async def give_back(self, token: str, images: int, accepted_at: float) -> None:
        """Take images that were not drawn off the day on which their request was accepted (unix seconds)."""
        await self._give_back(self._key(token, accepted_at), images)

    async def _give_back(self, key: str, images: int) -> None:
        script = partial(self._give_back_script, count=key, images=images)
        await self._redis.breaker.call(script, None, "images a day stay counted")

    def _key(self, token: str, accepted_at: float) -> str:
        return self._redis.key("taken", token, day_of(accepted_at))

    async def _count(self, key: str, images: int, most: int) -> int | None:
        take = partial(self._take_script, count=key, images=images, limit=most, ttl_s=2 * DAY_S)
        return await self._redis.breaker.call(take, None, "images a day are not limited")


def _seconds_to_midnight() -> int:
    return DAY_S - int(time.time()) % DAY_S

"""The requests of all batches that are not tasks yet, as the rest of the service sees them."""

import time
from collections.abc import Sequence

from serve_app.backends.redis import Redis
from serve_app.batches.keys import BatchKeys


class WaitingRequests:
    """Every method raises BrokerError while Redis is unavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._keys = BatchKeys(redis)

    async def count(self) -> int:
        """How many there are."""
        pipe = self._redis.pipeline(transaction=False)
        for batch_id in await self._redis.zrange(self._keys.active, 0, -1):
            pipe.zcard(self._keys.waiting(str(batch_id)))
        return sum(await pipe.execute())

    async def reserved(self, task_ids: Sequence[str]) -> list[bool]:
        """Which tasks are not recorded yet although their files are needed."""
        now = time.time()
        scores = await self._redis.zmscore(self._keys.reserved, [*task_ids]) if task_ids else []
        return [score is not None and float(score) > now for score in scores]

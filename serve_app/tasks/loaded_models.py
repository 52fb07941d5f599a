"""Which models the generators have in memory, as they report it, and how long loading the others takes."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.backends.redis import Redis

TTL_S = 10.0  # after the last report: the generator may have died, or evicted the model


class LoadedModels:
    """Written by the generators, read by the ingresses. Every method raises BrokerError while Redis is unavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._loaded = redis.key("models", "loaded")  # a sorted set: names, by when a generator last said so
        self._loads = redis.key("models", "loads")  # a hash: seconds that the last load of each took

    async def report(self, loaded: Mapping[str, float]) -> None:
        """Note the models that a generator has in memory, and the seconds that loading each of them took."""
        if not loaded:
            return
        pipe = self._redis.pipeline(transaction=False)
        pipe.zadd(self._loaded, dict.fromkeys(loaded, time.time()))
        pipe.hset(self._loads, mapping={name: str(round(load_s, 1)) for name, load_s in loaded.items()})
        await pipe.execute()

    async def load_s(self, names: Sequence[str], usual_s: float) -> list[float]:
        """Seconds until each model is in memory: 0 where a generator has it, `usual_s` where no load was seen."""
        pipe: Any = self._redis.pipeline(transaction=False)
        pipe.zmscore(self._loaded, names).hmget(self._loads, names)
        reported, took = await pipe.execute()
        fresh = time.time() - TTL_S
        return [
            0.0 if at is not None and float(at) >= fresh else float(usual_s if seconds is None else seconds)
            for at, seconds in zip(reported, took, strict=True)
        ]

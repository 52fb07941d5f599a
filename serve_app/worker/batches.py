"""Batches are fed by one worker at a time."""

from serve_app.backends.redis import Redis
from serve_app.batches.feeder import BatchFeeder
from serve_app.worker.periodic import acquire_lock


class Batches:
    """Runs in every worker; the one that gets the lock does the work."""

    name = "feeder of batches"
    every_s = 1.0

    def __init__(self, redis: Redis, feeder: BatchFeeder) -> None:
        self._redis = redis
        self._feeder = feeder

    async def run_once(self) -> None:
        """Does nothing if another worker has run it recently. Raises: BrokerError; StoreError."""
        if await acquire_lock(self._redis, "batches:feeder", self.every_s):
            await self._feeder.run_once()

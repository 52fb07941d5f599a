"""The names of the Redis keys of batches."""

from serve_app.backends.redis import Redis


class BatchKeys:
    """The keys of the batches of one broker."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.active = redis.key("batches", "active")  # a sorted set: those that are not over, by their last turn
        # A sorted set of the tasks that are not recorded yet but whose files are needed, by until when (unix seconds).
        self.reserved = redis.key("batches", "reserved")

        # Sorted sets: finished batches whose webhooks are due, by the time of the next attempt; owners, as of tasks.
        self.webhooks = redis.key("batches", "webhooks")
        self.webhook_owners = redis.key("batches", "webhooks", "owners")

    def record(self, batch_id: str) -> str:
        """A hash: the batch, its status and its counts."""
        return self._redis.key("batch", batch_id)

    def items(self, batch_id: str) -> str:
        """A hash: the `BatchItem` of each request by its `custom_id`."""
        return self._redis.key("batch", batch_id, "items")

    def waiting(self, batch_id: str) -> str:
        """A sorted set: the requests that are not queued yet, in the order in which they were added."""
        return self._redis.key("batch", batch_id, "waiting")

    def queued(self, batch_id: str) -> str:
        """A sorted set: the requests that are tasks now whose ends were not noted yet."""
        return self._redis.key("batch", batch_id, "queued")

    def ended(self, batch_id: str) -> str:
        """A sorted set: `ENDING custom_id` of the others, in the order of their ends."""
        return self._redis.key("batch", batch_id, "ended")

    def of_owner(self, owner: str) -> str:
        """A sorted set: the batches of an owner by their age."""
        return self._redis.key("batches", "of", owner)

    def of_batch(self, batch_id: str) -> dict[str, str]:
        """By the names that `lua/batch.lua` gives them."""
        return {
            "record": self.record(batch_id),
            "items": self.items(batch_id),
            "waiting": self.waiting(batch_id),
            "queued": self.queued(batch_id),
            "ended": self.ended(batch_id),
            "active": self.active,
            "reserved": self.reserved,
            "webhooks": self.webhooks,
        }

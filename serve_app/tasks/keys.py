"""The names of the Redis keys of tasks. Other rooms name their own over the same prefix, with `Redis.key`."""


class TaskKeys:
    """The keys of the records, the queue and what belongs to them."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.queue = f"{prefix}:queue"
        self.low_queue = f"{prefix}:queue:low"
        self.open = f"{prefix}:open"  # unfinished queued tasks, by the time they were queued
        self.dead = f"{prefix}:dead"  # dead letters, by the time they died
        # A stream of the ids of tasks whose records changed recently, and of tokens that were revoked.
        self.changes = f"{prefix}:changes"
        self.webhooks = f"{prefix}:webhooks"  # finished tasks whose webhooks are due, by the time of the next attempt
        self.webhook_owners = f"{prefix}:webhooks:owners"  # with webhooks in line, by the time of their last turn
        self.throughput = f"{prefix}:pace"
        self.previews = f"{prefix}:previews"  # a channel, no key

    def record(self, task_id: str) -> str:
        """A hash: the record of a task."""
        return f"{self._prefix}:task:{task_id}"

    def open_of(self, owner: str) -> str:
        """A sorted set: an owner's unfinished queued tasks, by the time they were queued."""
        return f"{self.open}:of:{owner}"

    def line(self, owner: str) -> str:
        """A sorted set: the one task of an owner that waits in the normal queue."""
        return f"{self.open}:line:{owner}"

    def later(self, owner: str) -> str:
        """A sorted set: the owner's tasks behind that one, in the low queue meanwhile, by when they were queued."""
        return f"{self.open}:later:{owner}"

    def lease(self, task_id: str) -> str:
        """A string that expires: the lease owner of a task."""
        return f"{self._prefix}:lease:{task_id}"

    def progress(self, task_id: str) -> str:
        """A hash: the `ImageProgress` of a task's images, by their index."""
        return f"{self._prefix}:progress:{task_id}"

    def idempotency(self, digest: str) -> str:
        """A string: the id of the task with this `idempotency_digest`, and the digest of its request body."""
        return f"{self._prefix}:idempotency:{digest}"

    def of_task(self, task_id: str) -> dict[str, str]:
        """By the names that `lua/task.lua` gives them."""
        return {
            "record": self.record(task_id),
            "lease": self.lease(task_id),
            "normal_queue": self.queue,
            "low_queue": self.low_queue,
            "open": self.open,
            "dead": self.dead,
            "changes": self.changes,
            "webhooks": self.webhooks,
            "throughput": self.throughput,
        }

"""The names of the Redis keys that hold tasks, and what other rooms keep beside them."""


class Keys:
    """The names of the keys."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.queue = f"{self._prefix}:queue"
        self.low_queue = f"{self._prefix}:queue:low"
        self.open = f"{self._prefix}:open"  # the tasks that were queued and are unfinished, by when they were queued
        self.dead = f"{self._prefix}:dead"  # those that were given up, by when
        self.changes = f"{self._prefix}:changes"  # a stream of the ids of tasks whose records changed of late
        self.webhooks = f"{self._prefix}:webhooks"  # finished tasks to tell of, by when
        self.pace = f"{self._prefix}:pace"
        self.reaper = f"{self._prefix}:reaper"
        self.cold_starts = f"{self._prefix}:cold-starts"  # seconds that each stage last took to come up from zero
        self.tokens = f"{self._prefix}:tokens"
        self.tokens_used = f"{self._prefix}:tokens-used"  # when each came last
        self.rates = f"{self._prefix}:rate"
        self.signing_key = f"{self._prefix}:signing-key"
        self.certificate = f"{self._prefix}:certificate"  # and its key, of content credentials

    def sweeper(self, what: str) -> str:
        return f"{self._prefix}:sweeper:{what}"

    def record(self, task_id: str) -> str:
        return f"{self._prefix}:task:{task_id}"

    def open_of(self, owner: str) -> str:
        return f"{self.open}:of:{owner}"

    def line(self, owner: str) -> str:
        return f"{self.open}:line:{owner}"

    def later(self, owner: str) -> str:
        return f"{self.open}:later:{owner}"

    def lease(self, task_id: str) -> str:
        return f"{self._prefix}:lease:{task_id}"

    def progress(self, task_id: str) -> str:
        return f"{self._prefix}:progress:{task_id}"

    def idempotency(self, digest: str) -> str:
        return f"{self._prefix}:idempotency:{digest}"

    def places(self, token: str) -> str:
        return f"{self._prefix}:places:{token}"

    def greedy(self, token: str) -> str:
        return f"{self._prefix}:greedy:{token}"

    def usage(self, token: str, day: str) -> str:
        return f"{self._prefix}:usage:{token}:{day}"

    def of_task(self, task_id: str) -> list[str]:
        """In the order in which the scripts name them."""
        of_all = [self.queue, self.low_queue, self.open, self.dead, self.changes, self.webhooks, self.pace]
        return [self.record(task_id), self.lease(task_id), *of_all]

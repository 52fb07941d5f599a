"""Ends queued tasks whose start deadlines pass before a worker takes them. One worker at a time runs it."""

from serve_app.backends.redis import Redis
from serve_app.tasks.start_deadlines import StartDeadlines
from serve_app.tasks.store import TaskStore
from serve_app.tasks.stream import Message
from serve_app.worker.consumer import TaskWorker
from serve_app.worker.periodic import acquire_lock


class LateStarts:
    """Runs in every worker; the one that gets the lock does the work."""

    name = "end of tasks that did not begin"
    every_s = 2.0

    def __init__(self, redis: Redis, tasks: TaskStore, worker: TaskWorker) -> None:
        self._redis = redis
        self._tasks = tasks
        self._start_deadlines = StartDeadlines(redis)
        self._worker = worker

    async def run_once(self) -> None:
        """Does nothing if another worker has run it recently. Raises: BrokerError."""
        if not await acquire_lock(self._redis, "late-starts", self.every_s):
            return
        late = await self._start_deadlines.passed()
        for task_id in late:
            record = await self._tasks.get(task_id)
            if record is not None and record.status == "PENDING" and record.started_at is None and record.message_id:
                # As if it were its turn: it ends at once, unless another worker takes it at this moment.
                await self._worker.handle(Message(record.message_id, task_id, record.priority))
        await self._start_deadlines.forget(late)

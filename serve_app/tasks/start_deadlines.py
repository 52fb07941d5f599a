"""The start deadlines of queued tasks: who waits is told when one has passed, not when a worker comes to the task."""

import time
from collections.abc import Sequence

from serve_app.backends.redis import Redis
from serve_app.tasks.models import Task

AT_ONCE = 100


class StartDeadlines:
    """Every method raises BrokerError while Redis is unavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._key = redis.key("start-deadlines")  # a sorted set of task ids

    async def note(self, task: Task) -> None:
        """Remember the start deadline of a task that is about to be queued, where it has one."""
        if task.start_deadline is not None:
            await self._redis.zadd(self._key, {task.task_id: task.start_deadline})

    async def passed(self) -> list[str]:
        """The ids of tasks whose start deadlines have passed, the oldest AT_ONCE; they may have begun, or be over."""
        late = await self._redis.zrange(self._key, "-inf", str(time.time()), byscore=True, offset=0, num=AT_ONCE)
        return [str(task_id) for task_id in late]

    async def forget(self, task_ids: Sequence[str]) -> None:
        """Of tasks that were dealt with."""
        if task_ids:
            await self._redis.zrem(self._key, *task_ids)

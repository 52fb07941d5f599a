"""How the requests of a batch end: by their tasks, or because the batch is cancelled."""

import asyncio

from serve_app.batches.models import Batch, Ending
from serve_app.batches.store import BatchStore
from serve_app.generation.execution import TaskExecution
from serve_app.tasks.models import UNFINISHED
from serve_app.tasks.store import TaskStore

CANCELLED_AT_ONCE = 8


class BatchEndings:
    """Takes over from the tasks of batches how they ended."""

    def __init__(self, store: BatchStore, tasks: TaskStore, execution: TaskExecution) -> None:
        self._store = store
        self._tasks = tasks
        self._execution = execution

    async def settle(self, batch: Batch) -> list[str]:
        """Note the ends of its tasks; returns the ids of those that ended. Raises: BrokerError."""
        queued = await self._store.queued(batch.batch_id)
        statuses = await self._tasks.statuses([item.task_id for item in queued]) if queued else []
        ended = [(item, status) for item, status in zip(queued, statuses, strict=True) if status not in UNFINISHED]
        # A record that is gone was that of a task that had ended: records outlive their deadlines.
        endings = [(item.custom_id, Ending.FAILED if status is None else Ending(status)) for item, status in ended]
        await self._store.settle(batch.batch_id, endings)
        return [item.task_id for item, _ in ended]

    async def cancel_tasks(self, batch: Batch) -> None:
        """Cancel what is unfinished of its tasks; may be repeated. Raises: BrokerError."""
        left = iter(await self._store.queued(batch.batch_id))

        async def cancel_next() -> None:
            for item in left:
                if (record := await self._tasks.get(item.task_id)) is not None:
                    await self._execution.cancel(record.task)

        await asyncio.gather(*(cancel_next() for _ in range(CANCELLED_AT_ONCE)))
        await self.settle(batch)

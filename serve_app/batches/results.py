"""The file of results of a batch: a line for each request that ended, in the order of their ends."""

import asyncio
from collections.abc import AsyncIterator

from serve_app.backends.object_store import Results
from serve_app.batches.models import EndedItem, Ending
from serve_app.batches.store import BatchStore
from serve_app.generation.envelope import envelope_of
from serve_app.schemas.responses import BatchLine, Envelope
from serve_app.tasks.store import TaskStore

AT_ONCE = 20  # lines in memory

# What a line says whose request never became a task, or whose task has gone.
WITHOUT_TASK: dict[Ending, Envelope] = {
    Ending.CANCELLED: Envelope(status="CANCELLED"),
    Ending.EXPIRED: Envelope(
        status="FAILED",
        error="Timeout",
        error_data={"message": "The time of the batch was over before this was begun."},
    ),
    Ending.FAILED: Envelope(
        status="FAILED",
        error="Unknown Task",
        error_data={"message": "It failed, and the record of why has expired."},
    ),
    Ending.SUCCESS: Envelope(
        error="Unknown Task", error_data={"message": "It succeeded, and its record and images have expired."}
    ),
}


class ResultFile:
    """Writes the results of batches, a few lines at a time."""

    def __init__(self, store: BatchStore, tasks: TaskStore, results: Results) -> None:
        self._store = store
        self._tasks = tasks
        self._results = results

    async def lines(self, batch_id: str, after: int, base_url: str) -> AsyncIterator[bytes]:
        """The lines after the one with this `index`, with newly signed URLs. Raises: BrokerError; StoreError."""
        while ended := await self._store.ended(batch_id, after, AT_ONCE):
            lines = await asyncio.gather(*(self._line(each, base_url) for each in ended))
            yield b"".join(line.model_dump_json().encode() + b"\n" for line in lines)
            after = ended[-1].position

    async def _line(self, ended: EndedItem, base_url: str) -> BatchLine:
        record = await self._tasks.get(ended.item.task_id)
        if record is None:
            envelope = WITHOUT_TASK[ended.ending].model_copy(update={"task_id": ended.item.task_id})
        else:
            envelope = await envelope_of(record, self._results, base_url)
        return BatchLine(index=ended.position, custom_id=ended.item.custom_id, envelope=envelope)

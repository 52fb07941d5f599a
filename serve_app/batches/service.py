"""What clients may ask about batches, of one ingress replica."""

import hashlib
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from serve_app.backends.broker_memory import MemoryWatch
from serve_app.backends.redis import FULL_RETRY_AFTER_S
from serve_app.batches.ending import BatchEndings
from serve_app.batches.intake import ChunkIntake, delete_files
from serve_app.batches.models import Batch, BatchRecord, BatchState, Ending, NewRequest
from serve_app.batches.requests import BatchRequest
from serve_app.batches.results import ResultFile
from serve_app.batches.store import BatchStore
from serve_app.batches.views import batch_view
from serve_app.errors import OverloadedError, UnknownBatchError
from serve_app.generation.admission import FairSlots
from serve_app.generation.service import AvatarService
from serve_app.generation.validation import Caller, new_task_id
from serve_app.schemas.responses import BatchView


class BatchService:
    """Opens, fills, shows and ends batches."""

    def __init__(self, service: AvatarService) -> None:
        settings, container = service.settings, service.container
        self._service = service
        self._settings = settings.batches
        self._store = BatchStore(container.redis, settings.batches, settings.result_ttl_s)
        self._tasks = container.tasks
        self._endings = BatchEndings(self._store, container.tasks, service.execution)
        self._intake = ChunkIntake(self._store, container.results, service.intake, service.validator, settings.batches)
        self._results = ResultFile(self._store, container.tasks, container.results)
        self._memory = MemoryWatch(container.redis)
        admission = settings.admission
        chunks = "chunks of batches are being added"
        self._adding = FairSlots(admission.max_queueing, chunks, admission.retry_after_s, container.use)

    async def open(self, request: BatchRequest, caller: Caller) -> BatchView:
        """Open a batch; with an idempotency key, the same one for all that repeat the request.

        Raises: InvalidRequestError; ConflictError; RateLimitError; OverloadedError.
        """
        await self._check_memory()
        webhook = self._service.validator.webhook(request.webhook_url, caller)
        if "app_id" in request.defaults:
            self._service.validator.app(request.defaults["app_id"])
        now = time.time()
        batch = Batch(
            batch_id=new_task_id() if caller.idempotency_key is None else _batch_id(caller),
            owner=caller.owner,
            token=caller.token.id if caller.token else "",
            created_at=now,
            deadline=now + self._settings.deadline_s,
            defaults=request.defaults,
            ref_id=request.ref_id,
            metadata=request.metadata,
            webhook=webhook,
        )
        await self._store.open(batch, request.digest())
        return await self.view(await self.find(batch.batch_id, caller.owner))

    async def find(self, batch_id: str, owner: str) -> BatchRecord:
        """Raises: UnknownBatchError, also for batches of another owner."""
        record = await self._store.get(batch_id)
        if record is None or record.batch.owner != owner:
            raise UnknownBatchError("There is no batch with this id.", batch_id=batch_id[:64])
        return record

    async def of_owner(self, owner: str) -> list[BatchView]:
        """The newest batches of an owner, the newest first."""
        return [await self.view(record) for record in await self._store.of_owner(owner)]

    async def add(self, record: BatchRecord, requests: Sequence[NewRequest], caller: Caller) -> tuple[BatchView, int]:
        """Add a chunk, all or nothing; tells how many of its requests were new. Raises: as `ChunkIntake.add`."""
        await self._check_memory()
        with self._adding.hold(caller.owner):
            added = await self._intake.add(record.batch, requests, caller)
        return await self._view_again(record), added

    async def close(self, record: BatchRecord) -> BatchView:
        """Accept no more requests; may be repeated."""
        await self._store.close(record.batch.batch_id)
        return await self._view_again(record)

    async def cancel(self, record: BatchRecord) -> BatchView:
        """End what has not ended; the results that there are stay. May be repeated. Raises: StoreError."""
        batch = record.batch
        # From here on it is cancelled whatever dies: the feeder cancels its tasks too, and files that no task needs are
        # orphans.
        given_up = await self._store.give_up_waiting(batch.batch_id, Ending.CANCELLED)
        await delete_files(self._service.results, given_up)
        if (await self.find(batch.batch_id, batch.owner)).state is BatchState.CANCELLED:
            await self._endings.cancel_tasks(batch)
        return await self._view_again(record)

    async def lines(self, record: BatchRecord, after: int, base_url: str) -> AsyncIterator[bytes]:
        """The file of results, from the line after the one with this `index`."""
        async for lines in self._results.lines(record.batch.batch_id, after, base_url):
            yield lines

    async def view(self, record: BatchRecord) -> BatchView:
        """A batch as clients see it, with what its tasks do just now."""
        queued = await self._store.queued(record.batch.batch_id)
        statuses = await self._tasks.statuses([item.task_id for item in queued]) if queued else []
        return batch_view(record, Counter(statuses))

    async def _view_again(self, record: BatchRecord) -> BatchView:
        return await self.view(await self.find(record.batch.batch_id, record.batch.owner))

    async def _check_memory(self) -> None:
        """Raises: OverloadedError."""
        if await self._memory.is_nearly_full():
            message = "The broker's memory is nearly full: batches are accepted when older tasks have expired."
            raise OverloadedError(message, FULL_RETRY_AFTER_S)


def _batch_id(caller: Caller) -> str:
    """The id of the batch that a client's key stands for."""
    digest = hashlib.sha256(f"batch\n{caller.owner}\n{caller.idempotency_key}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))

"""Queues the requests of batches, as many at a time as their owner's limits and the queue leave room for.

Every worker runs it, and a lock lets one of them do it at a time; but nothing depends on that, nor on where a process
dies:

- A request that waits becomes a queued task in one script (`create_queued.lua`), under the task id that it got when it
  was added. Before that script it waits, afterwards it is an ordinary task of the queue, which survives what all tasks
  survive; two feeders that try the same make one task.
- The request's file is deleted only after its task has ended, since a broker that lost its last second to a power cut
  needs it again. Whoever dies before that leaves an orphan for retention.
- How a task ended is taken over from its record, each once (`settle.lua`); a feeder that dies before that is followed
  by one that reads the same record.
- Images a day are counted before the task is made: whoever dies in between has counted those of one request too many,
  rather than let a token draw more than it may.
"""

import logging
import time

from serve_app.auth.image_quota import ImageQuota
from serve_app.auth.rate_limit import Rate, Rates
from serve_app.auth.tokens import OwnToken, Token, TokenStore
from serve_app.backends.object_store import request_key
from serve_app.batches.ending import BatchEndings
from serve_app.batches.intake import delete_files
from serve_app.batches.models import Batch, BatchItem, BatchState, Ending
from serve_app.batches.store import BatchStore
from serve_app.errors import (
    BrokerError,
    BrokerFullError,
    NotFoundError,
    OverloadedError,
    TooLateError,
    UnknownTaskError,
)
from serve_app.generation.container import Container
from serve_app.generation.execution import TaskExecution
from serve_app.generation.queue_eta import QueueEta
from serve_app.generation.settings import GenerationSettings
from serve_app.tasks.models import Task
from serve_app.tasks.queue_snapshot import QueueReader

log = logging.getLogger(__name__)


class BatchFeeder:
    """Gives each batch its turn. The worker that calls `run_once` has the lock."""

    def __init__(
        self,
        settings: GenerationSettings,
        container: Container,
        execution: TaskExecution,
        store: BatchStore,
        own: OwnToken | None,
    ) -> None:
        redis = container.redis
        self._settings = settings
        self._store = store
        self._tasks = container.tasks
        self._results = container.results
        self._endings = BatchEndings(store, container.tasks, execution)
        self._tokens = TokenStore(redis, own)
        self._queue_eta = QueueEta(settings, container.tasks, QueueReader(redis))
        self._rates = Rates(redis)
        self._quota = ImageQuota(redis)

    async def run_once(self) -> None:
        """Note what has ended, and queue more, of every batch that is not over. Raises: BrokerError."""
        for batch_id in await self._store.active():
            record = await self._store.get(batch_id)
            if record is not None:
                try:
                    await self._turn(record.batch, record.state)
                except BrokerError:
                    raise
                except OverloadedError as error:  # the store
                    log.warning("batch %s goes on later: %s", batch_id, error)
            await self._store.had_turn(batch_id, gone=record is None)

    async def _turn(self, batch: Batch, state: BatchState) -> None:
        """Raises: BrokerError; StoreError."""
        ended = await self._endings.settle(batch)
        await self._results.delete(map(request_key, ended))
        if state is BatchState.CANCELLED:
            await self._endings.cancel_tasks(batch)
            return
        token = await self._tokens.by_id(batch.token)
        if token is None:
            log.info("batch %s is cancelled: its token is revoked or expired", batch.batch_id)
            await delete_files(self._results, await self._store.give_up_waiting(batch.batch_id, Ending.CANCELLED))
        elif time.time() >= batch.deadline:
            await delete_files(self._results, await self._store.give_up_waiting(batch.batch_id, Ending.EXPIRED))
        else:
            await self._feed(batch, token)

    async def _feed(self, batch: Batch, token: Token) -> None:
        """Queue what there is room for. Raises: BrokerError; StoreError."""
        token = token.model_copy(update={"limits": token.limits.filled(self._settings.tokens)})
        for item in await self._store.waiting(batch.batch_id, self._settings.batches.queued_at_once):
            try:
                task = await self._task(item)
            except NotFoundError:
                log.error("batch %s: a request is lost from the store", batch.batch_id)
                await self._store.settle(batch.batch_id, [(item.custom_id, Ending.FAILED)])
                continue
            try:
                if not await self._has_room(task, token) or not await self._queue(batch, item, task, token):
                    return
            except TooLateError:  # those behind it have more time, perhaps
                await self._store.defer(batch.batch_id, item.custom_id)

    async def _task(self, item: BatchItem) -> Task:
        """As if it came now: its deadline counts from here. Raises: NotFoundError; StoreError."""
        task = Task.model_validate_json(await self._results.get(request_key(item.task_id)))
        return task.model_copy(update={"submitted_at": time.time()})

    async def _has_room(self, task: Task, token: Token) -> bool:
        """Whether the queue takes the task now. Raises: TooLateError where it would miss its deadline; BrokerError."""
        most, queued = self._settings.batches.queued_at_once, token.limits.queued
        if queued:  # half of it stays for what its owner sends besides
            most = min(most, max(1, queued // 2))
        try:
            await self._queue_eta.check_load(task, most)
        except (BrokerError, TooLateError):
            raise
        except OverloadedError:  # or its owner has enough there
            return False
        return True

    async def _queue(self, batch: Batch, item: BatchItem, task: Task, token: Token) -> bool:
        """False where the token may not have more made now. Raises: BrokerError."""
        limits = token.limits
        try:
            if limits.requests_per_minute:
                # By themselves: otherwise a batch would leave its owner no requests, nor chunks, besides.
                await self._rates.hit(f"{token.id}:batches", Rate(limits.requests_per_minute, 60))
            async with self._quota.take(token.id, task.request.batch, limits.images_per_day or 0):
                if not await self._tasks.create_queued(task, self._store.move(batch.batch_id, item.custom_id)):
                    raise UnknownTaskError("It waits no more.")  # cancelled; its images are not counted then
        except UnknownTaskError:
            return True
        except BrokerFullError:
            return False
        except BrokerError:
            raise
        except OverloadedError:
            return False
        return True

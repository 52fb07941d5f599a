"""From a validated request to the record of a finished or a queued task.

Of the requests with one idempotency key the first runs, and its repeats wait for its record.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from deployments.types import Photo
from serve_app.backends.object_store import photo_keys
from serve_app.errors import BrokerError, UnknownTaskError
from serve_app.generation.admission import FairSlots, TaskLimits
from serve_app.generation.app_choice import AppChoice
from serve_app.generation.container import Container
from serve_app.generation.execution import FinalOutcome, TaskExecution, begins_in_time, within_deadline
from serve_app.generation.pictures import PhotoIntake
from serve_app.generation.queue_eta import QueueEta
from serve_app.generation.settings import GenerationSettings
from serve_app.generation.validation import ANYBODY, Caller
from serve_app.photos.decode import pack_photo
from serve_app.photos.source import PhotoSource
from serve_app.pipeline.calls import all_or_none, detach
from serve_app.pipeline.cold_start import StageMonitor
from serve_app.schemas.requests import AvatarRequest, body_digest
from serve_app.schemas.responses import Status
from serve_app.tasks.leases import TaskLostError
from serve_app.tasks.loaded_models import LoadedModels
from serve_app.tasks.models import Task, TaskRecord
from serve_app.tasks.start_deadlines import StartDeadlines
from serve_app.tasks.store import TaskStore

REPEAT_POLL_S = 0.2  # between reads of the first request's record by a repeat
CLOSE_TIMEOUT_S = 10

Run = Callable[[Task, bool], Coroutine[Any, Any, TaskRecord]]
"""Runs a leased task; true: another process has worked on it before."""
log = logging.getLogger(__name__)


class TaskCreation:
    """Makes the avatars of a request while its client waits, or queues it."""

    def __init__(
        self,
        settings: GenerationSettings,
        container: Container,
        execution: TaskExecution,
        intake: PhotoIntake,
        queue_eta: QueueEta,
        stages: StageMonitor | None,
    ) -> None:
        """Without `stages`, all stages count as having replicas."""
        admission = settings.admission
        self._container = container
        self._execution = execution
        self._intake = intake
        self._stages = stages
        self._limits = TaskLimits(settings, container, queue_eta)
        self._start_deadlines = StartDeadlines(container.redis)
        self._apps = AppChoice(container.catalog, LoadedModels(container.redis), admission.cold_start_s)
        waits = "requests wait for the answer to one with their key"
        waiting = FairSlots(admission.max_repeats, waits, admission.retry_after_s, container.use)
        self._runs = IdempotentRuns(container.tasks, execution, waiting)

    @property
    def slots_in_use(self) -> float:
        """The share of this replica's slots for images that requests with a waiting client hold."""
        return self._limits.slots_in_use

    async def create(self, task: Task, request: AvatarRequest, caller: Caller = ANYBODY) -> TaskRecord:
        """Make the avatars and wait for them, or queue the task; returns its record.

        Raises: AvatarError of every kind that the contract's table names.
        """
        await self._limits.check_memory(task)
        try:
            with self._limits.refusals(task):
                if request.celery:
                    return await self._enqueue(task, request, caller)
                task = await self._apps.choose(task, _no_check)
                if task.idempotency is None:
                    return await self._make(task, request, caller)
                return await self._runs.once(
                    task, "STARTED", request, lambda leased, begun: self._make_leased(leased, request, caller, begun)
                )
        except TaskLostError:  # its owner cancelled it
            return await record_of(self._container.tasks, task.task_id)

    async def close(self) -> None:
        """Wait for runs whose clients have left, and stop watching the stages."""
        await self._runs.close()
        if self._stages is not None:
            self._stages.close()

    async def _make(self, task: Task, request: AvatarRequest, caller: Caller) -> TaskRecord:
        async with self._limits.synchronous(task, caller):
            try:
                await self._container.tasks.create(task, "STARTED")
            except BrokerError as error:
                if task.webhook is not None:
                    raise
                # Its state cannot be queried, but the client waits for the answer to this request.
                log.warning("task %s is not recorded: %s", task.task_id, error.__cause__)
                return await self._run(task, request, recorded=False)
            async with self._execution.answering(task):
                return await self._run(task, request)

    async def _make_leased(self, task: Task, request: AvatarRequest, caller: Caller, begun: bool) -> TaskRecord:
        # A refusal ends the task too, so that a repeat may try again.
        async with self._execution.answering(task, begun=begun), self._limits.synchronous(task, caller):
            return await self._run(task, request, begun=begun)

    async def _run(
        self, task: Task, request: AvatarRequest, *, recorded: bool = True, begun: bool = False
    ) -> TaskRecord:
        """Run a leased task, and finish it where it succeeds. Raises: TaskLostError; what the execution raises."""
        started_at = time.time()
        outcome = await self._execution.run(
            task,
            lambda: self._photos_for_warm_stages(request, task),
            recorded=recorded,
            slots=self._limits.drawing(task),
            begun=begun,
        )
        success = FinalOutcome("SUCCESS", outcome)
        if recorded:
            await self._execution.finish(task, success, client_waits=True)
        else:
            self._execution.count(task, success)
        return TaskRecord(task=task, status="SUCCESS", started_at=started_at, finished_at=time.time(), outcome=outcome)

    async def _enqueue(self, task: Task, request: AvatarRequest, caller: Caller) -> TaskRecord:
        task = await self._apps.choose(task, lambda each: self._limits.check_queue(each, caller))
        with self._limits.queueing(task):
            if task.idempotency is not None:
                return await self._runs.once(
                    task, "PENDING", request, lambda leased, begun: self._enqueue_leased(leased, request, caller, begun)
                )
            await self._container.tasks.create(task, "PENDING")
            return await self._enqueue_leased(task, request, caller, begun=False)

    async def _enqueue_leased(self, task: Task, request: AvatarRequest, caller: Caller, begun: bool) -> TaskRecord:
        """Fetch the photos, store them, and put the task into the queue."""
        tasks, use = self._container.tasks, self._container.use
        async with (
            self._execution.answering(task, begun=begun),
            self._limits.images(task, caller),
            within_deadline(task),
        ):
            async with begins_in_time(task):
                photos = await self._intake.photos(request.photos, task.owner)
            keys = photo_keys(task.task_id, len(photos))
            await all_or_none(self._store(key, photo) for key, photo in zip(keys, photos, strict=True))
            with suppress(BrokerError):  # a worker sees it when it comes to the task
                await self._start_deadlines.note(task)
            record = await tasks.enqueue(task.task_id, behind=use.is_flooding(task.owner))
        return record or await record_of(tasks, task.task_id)

    async def _store(self, key: str, photo: Photo) -> None:
        await self._container.results.put(key, await asyncio.to_thread(pack_photo, photo))

    async def _photos_for_warm_stages(self, request: AvatarRequest, task: Task) -> Sequence[Photo]:
        """Raises: OverloadedError where a stage has no replica, which is then started."""
        photos = await self._intake.photos(request.photos, task.owner)
        if self._stages is not None:
            await self._stages.require_warm(photos, self._container.catalog[task.request.app_id].face_model)
        return photos


class IdempotentRuns:
    """Runs that outlive their clients, and the repeats that wait for them in one ingress replica."""

    def __init__(self, tasks: TaskStore, execution: TaskExecution, waiting: FairSlots) -> None:
        """`waiting` bounds the repeats that wait."""
        self._tasks = tasks
        self._execution = execution
        self._waiting = waiting
        self._detached: set[asyncio.Task[TaskRecord]] = set()

    async def once(self, task: Task, status: Status, request: AvatarRequest, run: Run) -> TaskRecord:
        """Run a task once for all requests with its idempotency key, which wait for its record.

        The run continues when its client disconnects. If its ingress dies, the next repeat runs it again.
        """
        task_id = await self._tasks.create(task, status, await asyncio.to_thread(body_digest, request))
        async with within_deadline(task):
            if task_id == task.task_id:
                with suppress(TaskLostError):  # cancelled, or leased by another ingress: wait for the record
                    return await self._run_on(run(task, False), request)
            record = await record_of(self._tasks, task_id)
            if _is_answered(record):
                return record
            with self._waiting.hold(task.owner):
                while not _is_answered(record):
                    if await self._execution.claim(record, status):
                        with suppress(TaskLostError):
                            return await self._run_on(run(record.task, True), request)
                    else:
                        await asyncio.sleep(REPEAT_POLL_S)
                    record = await record_of(self._tasks, task_id)
                return record

    async def close(self) -> None:
        """Wait up to CLOSE_TIMEOUT_S for the runs whose clients have left."""
        if self._detached:
            await asyncio.wait(self._detached, timeout=CLOSE_TIMEOUT_S)

    async def _run_on(self, run: Coroutine[Any, Any, TaskRecord], request: AvatarRequest) -> TaskRecord:
        """Run a leased task, which goes on if this request is cancelled. Raises: what `run` raises."""
        running = detach(run, self._detached, "a request failed")
        for photo in request.photos:
            photo.retain()  # the run may outlive this request
            running.add_done_callback(partial(_release, photo))
        return await asyncio.shield(running)


async def _no_check(_task: Task) -> None:
    """The client of a synchronous request waits at no queue whose length is known."""


async def record_of(tasks: TaskStore, task_id: str) -> TaskRecord:
    """The record of a task that was there. Raises: UnknownTaskError; BrokerError."""
    record = await tasks.get(task_id)
    if record is None:
        raise UnknownTaskError("The record of this task has expired.", task_id=task_id)
    return record


def _release(photo: PhotoSource, _done: "asyncio.Task[TaskRecord]") -> None:
    photo.release()


def _is_answered(record: TaskRecord) -> bool:
    """A queued task is answered once it is in the queue: until then it could still be lost."""
    return record.finished or record.message_id is not None

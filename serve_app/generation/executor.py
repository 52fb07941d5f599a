"""Runs leased tasks through the pipeline and finalises them; the ingress and the worker share it."""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from types import MappingProxyType
from typing import NamedTuple

from deployments.errors import AvatarError, DeadlineError
from deployments.types import Photo
from serve_app.auth.owner_use import OwnerUse
from serve_app.auth.usage import UsageBook
from serve_app.backends.object_store import Results
from serve_app.catalog.catalog import Catalog
from serve_app.errors import BrokerError, StoreError
from serve_app.pipeline.job import AvatarJob
from serve_app.pipeline.pipeline import AvatarPipeline, JobResult
from serve_app.schemas.errors import INTERNAL_ERROR, answer_to
from serve_app.schemas.responses import Status
from serve_app.tasks.leases import TaskLostError
from serve_app.tasks.metrics import TaskMetrics
from serve_app.tasks.models import Failure, Outcome, StoredAvatar, Task, TaskRecord, task_files, unneeded_files
from serve_app.tasks.store import TaskStore

log = logging.getLogger(__name__)


class TaskExecutor:
    """Makes the images of tasks and records each; how a task ends is recorded by `TaskFinaliser`."""

    def __init__(self, catalog: Catalog, pipeline: AvatarPipeline, tasks: TaskStore, use: OwnerUse) -> None:
        self._catalog = catalog
        self._pipeline = pipeline
        self._tasks = tasks
        self._use = use

    async def run(
        self,
        task: Task,
        get_photo: Callable[[], Awaitable[Photo]],
        *,
        done: Mapping[int, StoredAvatar] = MappingProxyType({}),
        recorded: bool = True,
        slots: AbstractContextManager[None] | None = None,
    ) -> Outcome:
        """Make the images of a task that are not in `done` (by index); `recorded`: note each in the task's record.

        `slots` are held only when the photo is here, so that a slow photo host takes none of them.

        Raises: DeadlineError, UnknownAppError, and what `get_photo`, `slots` and the pipeline raise.
        """

        async def image_done(index: int, avatar: StoredAvatar) -> None:
            if not recorded:
                return
            try:
                await self._tasks.note_image(task.task_id, index, avatar)
            except BrokerError:
                log.warning("task %s: an image is done but not recorded: the broker is unavailable", task.task_id)

        async with within_deadline(task):
            started = time.perf_counter()
            photo = await get_photo()
            fetch_s = time.perf_counter() - started
            with slots or nullcontext():
                result = await self._pipeline.run(await self._job(task, done), photo, image_done)
            return success_outcome(result, fetch_s)

    async def _job(self, task: Task, done: Mapping[int, StoredAvatar]) -> AvatarJob:
        request = task.request
        app = self._catalog[request.app_id]
        return AvatarJob(
            task_id=task.task_id,
            tenant=task.owner,
            request=request,
            model=app.model,
            native_size=app.native_size(request.width, request.height),
            submitted_at=task.submitted_at,
            done=done,
            tenant_used_s=await self._use.shared_s(task.owner),
        )


class FinalOutcome(NamedTuple):
    """How a task ends. A `dead` task goes to the dead letters, from which an operator may requeue it."""

    status: Status
    outcome: Outcome
    dead: bool = False


class TaskFinaliser:
    """Records how tasks ended, counts them in metrics and usage, and deletes files that they no longer need."""

    def __init__(self, tasks: TaskStore, results: Results, usage: UsageBook | None) -> None:
        self._tasks = tasks
        self._results = results
        self._usage = usage
        self.metrics = TaskMetrics()

    async def finalise(self, task: Task, final: FinalOutcome, retry_pauses_s: Iterable[float] = ()) -> None:
        """Record how a task ended, and count it.

        While the broker is unavailable it tries again after each pause (seconds), without pauses once only: then the
        task is counted, but stays unrecorded.

        Raises: TaskLostError where the task was over already, or another process has leased it.
        """
        for pause_s in itertools.chain(retry_pauses_s, (0.0,)):
            try:
                if not await self._tasks.finish(task, final.status, final.outcome, dead=final.dead):
                    raise TaskLostError("The task was cancelled.")
                break
            except BrokerError as error:
                log.warning("task %s: its outcome is not recorded: %s", task.task_id, error.__cause__)
                await asyncio.sleep(pause_s)
        self.count(task, final)

    def count(self, task: Task, final: FinalOutcome) -> None:
        """Count a task that ended, recorded or not."""
        self.metrics.ended(task, final.status, final.outcome)
        if self._usage is not None:
            self._usage.made(task.token, final.outcome.avatars)

    async def clean_up(self, task: Task) -> TaskRecord | None:
        """Delete the files that a task no longer needs, judged by its record; returns that. Raises: BrokerError."""
        record = await self._tasks.get(task.task_id)
        await self.delete(unneeded_files(task, record.status, dead=record.dead) if record else task_files(task))
        return record

    async def delete(self, keys: Iterable[str]) -> None:
        """Delete files; those that remain when the store fails are deleted later, by `Retention`."""
        try:
            await self._results.delete(keys)
        except StoreError as error:
            log.warning("a file of a task is not deleted: %s", error)


def within_deadline(task: Task) -> AbstractAsyncContextManager[None]:
    """Raises: DeadlineError when the block is not done by the task's deadline."""
    return time_limit(task.deadline - time.time(), limit_s=task.request.deadline_s)


@asynccontextmanager
async def time_limit(left_s: float, *, limit_s: float) -> AsyncIterator[None]:
    """Raises: DeadlineError when the block is not done in the rest of `limit_s`."""
    try:
        async with asyncio.timeout(max(0.0, left_s)) as scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise DeadlineError(f"Not done within {limit_s:g} s.") from None


def success_outcome(done: JobResult, fetch_s: float) -> Outcome:
    """The outcome of a task that succeeded; the time of a stage is that of its slowest image."""
    avatars = done.avatars
    stages = {
        "fetch": fetch_s,
        "face": done.face_s,
        "diffusion": max(avatar.diffusion_s for avatar in avatars),
        "finish": max(avatar.finish_s for avatar in avatars),
        "store": max(avatar.store_s for avatar in avatars),
    }
    return Outcome(
        avatars=tuple(avatars),
        stages={name: round(seconds, 4) for name, seconds in stages.items()},
        startup_s=round(max(avatar.startup_s for avatar in avatars), 4),
    )


def failure_outcome(error: BaseException) -> Outcome:
    """The outcome of a failed task, with only what its client may know of the error."""
    if isinstance(error, AvatarError):
        answer = answer_to(error)
        return Outcome(failure=Failure(status=answer.status, error=answer.name, error_data=error.data))
    message = "Something went wrong here; the log of the service has it under this task id."
    return Outcome(
        failure=Failure(status=INTERNAL_ERROR.status, error=INTERNAL_ERROR.name, error_data={"message": message})
    )

"""The life of a leased task, from its lease to its last file; the ingress and the worker share it."""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext, suppress
from types import MappingProxyType
from typing import NamedTuple

from deployments.common.time_limit import ends_by
from deployments.errors import AvatarError, DeadlineError, NotBegunError
from deployments.types import Photo
from serve_app.auth.image_quota import ImageQuota
from serve_app.auth.owner_use import OwnerUse
from serve_app.auth.usage import UsageBook
from serve_app.backends.object_store import Results
from serve_app.catalog.apps import FAST_LORA, App, lora_name
from serve_app.catalog.catalog import Catalog
from serve_app.errors import BrokerError, StoreError
from serve_app.pipeline.calls import detach
from serve_app.pipeline.job import AvatarJob
from serve_app.pipeline.pipeline import AvatarPipeline, JobResult
from serve_app.schemas.errors import INTERNAL_ERROR, answer_to
from serve_app.schemas.responses import Status
from serve_app.schemas.warnings import DIFFERENT_PEOPLE, NO_GUIDANCE, recorded_code
from serve_app.tasks.leases import Leases, TaskLostError
from serve_app.tasks.metrics import TaskMetrics
from serve_app.tasks.models import Claim, Failure, Outcome, StoredAvatar, Task, TaskRecord, task_files, unneeded_files
from serve_app.tasks.store import TaskStore
from serve_app.tasks.stream import Message, TaskQueue

PAUSES_S = (1, 2, 5, 10)  # between attempts while a stage, the store or the broker is unavailable; the last one repeats

log = logging.getLogger(__name__)


class FinalOutcome(NamedTuple):
    """How a task ends. A `dead` task goes to the dead letters, from which an operator may requeue it."""

    status: Status
    outcome: Outcome
    dead: bool = False


CANCELLED = FinalOutcome("CANCELLED", Outcome())


class TaskExecution:
    """Leases tasks, makes their images, and records, counts and cleans up how they end. Lives on one event loop."""

    def __init__(
        self,
        catalog: Catalog,
        pipeline: AvatarPipeline,
        tasks: TaskStore,
        results: Results,
        use: OwnerUse,
        usage: UsageBook,
        queue: TaskQueue | None = None,
        quota: ImageQuota | None = None,
    ) -> None:
        """`queue`: of a worker, whose messages are kept while their tasks run. `quota`: the images a day of tokens."""
        self._catalog = catalog
        self._pipeline = pipeline
        self._tasks = tasks
        self._results = results
        self._use = use
        self._usage = usage
        self._quota = quota
        self._leases = Leases(tasks, queue)
        self._unrecorded: set[asyncio.Task[None]] = set()
        self.metrics = TaskMetrics()

    def holds(self, task_id: str) -> bool:
        """Whether this process works on the task."""
        return self._leases.holds(task_id)

    async def claim(self, record: TaskRecord, status: Status) -> bool:
        """Lease a task to run it (STARTED) or to queue it (PENDING); false where someone still works on it."""
        task_id = record.task.task_id
        if record.is_leased or self.holds(task_id):
            return False
        return await self._tasks.claim(task_id, status) is Claim.ACQUIRED

    @asynccontextmanager
    async def leased(self, task: Task, message: Message | None = None) -> AsyncIterator[None]:
        """Keep the lease of a task while the block runs. One that was lost leaves no files of this process.

        Raises: TaskLostError, interrupting the block.
        """
        try:
            async with self._leases.hold(task.task_id, message):
                yield
        except TaskLostError:
            await self._clean_up(task)
            raise

    @asynccontextmanager
    async def answering(self, task: Task, *, begun: bool = False) -> AsyncIterator[None]:
        """As `leased`, of a task that was just accepted; a block that fails or is cancelled ends the task.

        `begun`: a process that died had accepted it, and counted it.
        """
        if not begun:
            self.metrics.accepted(task)
        async with self.leased(task):
            try:
                yield
            except TaskLostError:
                raise
            except (asyncio.CancelledError, Exception) as error:
                left = isinstance(error, asyncio.CancelledError)  # its client disconnected
                final = CANCELLED if left else FinalOutcome("FAILED", failure_outcome(error))
                try:
                    await self.finish(task, final, client_waits=True)
                except TaskLostError:
                    await self._clean_up(task)
                raise

    async def run(
        self,
        task: Task,
        get_photos: Callable[[], Awaitable[Sequence[Photo]]],
        *,
        done: Mapping[int, StoredAvatar] = MappingProxyType({}),
        recorded: bool = True,
        slots: AbstractContextManager[None] | None = None,
        begun: bool = False,
    ) -> Outcome:
        """Make the images of a task that are not in `done` (by index); `recorded`: note each in the task's record.

        `slots` are held only when the photos are here, so that a slow photo host takes none of them. `begun`: a process
        has worked on it before, so its start deadline is met, as that of a task with images in `done` is.

        Raises: DeadlineError, NotBegunError, UnknownAppError, and what `get_photos`, `slots` and the pipeline raise.
        """

        async def image_done(index: int, avatar: StoredAvatar) -> None:
            if not recorded:
                return
            try:
                await self._tasks.note_image(task.task_id, index, avatar)
            except BrokerError:
                log.warning("task %s: an image is done but not recorded: the broker is unavailable", task.task_id)

        begun = begun or bool(done)
        async with within_deadline(task):
            started = time.perf_counter()
            async with nullcontext() if begun else begins_in_time(task):
                photos = await get_photos()
            fetch_s = time.perf_counter() - started
            with slots or nullcontext():
                result = await self._pipeline.run(await self._job(task, done, begun), photos, image_done)
            outcome = success_outcome(result, fetch_s, photos)
        if self._catalog[task.request.app_id].ignores(task.request.guidance_scale, task.request.negative_prompt):
            return outcome.model_copy(update={"warnings": (*outcome.warnings, NO_GUIDANCE)})
        return outcome

    async def finish(self, task: Task, final: FinalOutcome, *, client_waits: bool = False) -> None:
        """Record how a task ended, delete the files that it no longer needs, and count it.

        While the broker is unavailable it tries again and again; where a client waits for the answer, without it.

        Raises: TaskLostError where the task was over already, or another process has leased it.
        """
        try:
            await self._record(task, final)
        except BrokerError as error:
            log.warning("task %s: its outcome is not recorded yet: %s", task.task_id, error.__cause__)
            if client_waits:
                detach(self._record_unattended(task, final), self._unrecorded, "an outcome is not recorded")
            else:
                await self._record_later(task, final)
        self.count(task, final)

    async def give_back(self, task: Task) -> None:
        """Take the images of a queued task, of which none was drawn, off those of its token's day."""
        if self._quota is not None:
            await self._quota.give_back(task.token, task.request.batch, task.submitted_at)

    async def cancel(self, task: Task) -> bool:
        """End an unfinished task and delete its files; false where it was finished, whose images stay.

        Raises: BrokerError.
        """
        if not await self._tasks.cancel(task.task_id):
            return False
        self.count(task, CANCELLED)
        await self.delete(task_files(task))
        return True

    def count(self, task: Task, final: FinalOutcome) -> None:
        """Count a task that ended, recorded or not."""
        self.metrics.ended(task, final.status, final.outcome)
        self._usage.made(task.token, final.outcome.avatars)

    async def delete(self, keys: Iterable[str]) -> None:
        """Delete files; those that remain when the store fails are deleted later, by `Retention`."""
        try:
            await self._results.delete(keys)
        except StoreError as error:
            log.warning("a file of a task is not deleted: %s", error)

    async def close(self) -> None:
        """Renew no more leases, which then expire, and give up what could not be recorded."""
        for recording in self._unrecorded:
            recording.cancel()
        await self._leases.close()

    async def _record(self, task: Task, final: FinalOutcome) -> None:
        self._leases.stop_interrupting(task.task_id)
        if not await self._tasks.finish(task, final.status, final.outcome, dead=final.dead):
            raise TaskLostError("The task was cancelled.")
        await self.delete(unneeded_files(task, final.status, dead=final.dead))

    async def _record_later(self, task: Task, final: FinalOutcome) -> None:
        for pause_s in pauses_s():
            await asyncio.sleep(pause_s)
            with suppress(BrokerError):
                return await self._record(task, final)
        raise AssertionError("the pauses do not end")

    async def _record_unattended(self, task: Task, final: FinalOutcome) -> None:
        await asyncio.sleep(0)  # until the block that began it has let go of the lease
        with suppress(TaskLostError):  # its client has the answer already: the files stay
            async with self._leases.hold(task.task_id):
                await self._record_later(task, final)

    async def _clean_up(self, task: Task) -> None:
        """Delete the files that a task no longer needs, judged by its record. Raises: BrokerError."""
        record = await self._tasks.get(task.task_id)
        await self.delete(record.unneeded_files if record else task_files(task))

    async def _job(self, task: Task, done: Mapping[int, StoredAvatar], begun: bool) -> AvatarJob:
        request = task.request
        app = self._catalog[request.app_id]
        preset = app.preset(request.quality)
        return AvatarJob(
            task_id=task.task_id,
            tenant=task.owner,
            request=request,
            model=app.model,
            native_size=app.native_size(request.width, request.height),
            submitted_at=task.submitted_at,
            done=done,
            tenant_used_s=await self._use.shared_s(task.owner),
            face_model=app.face_model,
            instruction=app.instruction,
            lora=_lora(request.app_id, app, request.style),
            speed_lora=_lora(request.app_id, app, None if preset is None else FAST_LORA),
            sampler=None if preset is None else preset.sampler,
            begun=begun,
            decoder=None if preset is None or preset.decoder is None else request.app_id,
        )


def _lora(app_id: str, app: App, name: str | None) -> str | None:
    """The name of an app's LoRA among those of its model, where it has one."""
    return lora_name(app_id, name) if name is not None and name in app.loras else None


def pauses_s() -> Iterator[float]:
    """Seconds between attempts, without end."""
    return itertools.chain(PAUSES_S, itertools.repeat(PAUSES_S[-1]))


def within_deadline(task: Task) -> AbstractAsyncContextManager[None]:
    """Raises: DeadlineError when the block is not done by the task's deadline."""
    return ends_by(task.deadline, DeadlineError(f"Not done within {task.request.deadline_s:g} s."))


def begins_in_time(task: Task) -> AbstractAsyncContextManager[None]:
    """Around what comes before the drawing. Raises: NotBegunError when it is not done by the task's start deadline."""
    return ends_by(task.start_deadline, NotBegunError.within(task.request.start_deadline_s or 0.0))


def success_outcome(done: JobResult, fetch_s: float, photos: Sequence[Photo]) -> Outcome:
    """The outcome of a task that succeeded; the time of a stage is that of its slowest image."""
    avatars = done.avatars
    each = itertools.zip_longest((file.warnings for file in photos), done.warnings, fillvalue=())
    of_photos = [recorded_code(code, photo) for photo, both in enumerate(each) for codes in both for code in codes]
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
        warnings=(*of_photos, *(recorded_code(DIFFERENT_PEOPLE, photo) for photo in done.doubtful)),
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

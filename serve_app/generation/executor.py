"""From a task that is ours to its avatars: what the ingress and the worker do alike."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType

from deployments.errors import AvatarError, DeadlineError
from deployments.types import Photo
from serve_app.auth.penalties import Penalties
from serve_app.catalog.catalog import Catalog
from serve_app.errors import BrokerError
from serve_app.pipeline.job import AvatarJob
from serve_app.pipeline.pipeline import AvatarPipeline, JobResult
from serve_app.schemas.errors import INTERNAL_ERROR, answer_to
from serve_app.tasks.models import Failure, Outcome, StoredAvatar, Task
from serve_app.tasks.store import TaskStore

log = logging.getLogger(__name__)


class TaskExecutor:
    def __init__(self, catalog: Catalog, pipeline: AvatarPipeline, tasks: TaskStore, penalties: Penalties) -> None:
        self._catalog = catalog
        self._pipeline = pipeline
        self._tasks = tasks
        self._penalties = penalties

    async def run(
        self,
        task: Task,
        get_photo: Callable[[], Awaitable[Photo]],
        *,
        done: Mapping[int, StoredAvatar] = MappingProxyType({}),
        recorded: bool = True,
    ) -> JobResult:
        """Make the images of a task but those that are `done`, by their index.

        Raises: DeadlineError, UnknownAppError, and what `get_photo` and the pipeline raise.
        """

        async def image_done(index: int, avatar: StoredAvatar) -> None:
            if not recorded:
                return
            try:
                await self._tasks.note_image(task.task_id, index, avatar)
            except BrokerError:
                log.warning("task %s: an image is done, but the broker does not answer", task.task_id)

        async with within_deadline(task):
            photo = await get_photo()
            return await self._pipeline.run(await self._job(task, done), photo, image_done)

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
            deprioritised=await self._penalties.is_penalised(task.token),
        )


@contextlib.asynccontextmanager
async def within_deadline(task: Task) -> AsyncIterator[None]:
    """Raises: DeadlineError where the block is not done by the task's deadline."""
    try:
        async with asyncio.timeout(max(0.0, task.deadline - time.time())) as scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise DeadlineError(f"Not done within {task.request.deadline_s:g} s.") from None


def success_outcome(done: JobResult, fetch_s: float) -> Outcome:
    """The outcome of a task that went well; of each stage the slowest image counts."""
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
    """The outcome of a task that ended with an error: what its client may know of it."""
    if isinstance(error, AvatarError):
        answer = answer_to(error)
        return Outcome(failure=Failure(status=answer.status, error=answer.name, error_data=error.data))
    message = "Something went wrong here; the log of the service has it under this task id."
    return Outcome(
        failure=Failure(status=INTERNAL_ERROR.status, error=INTERNAL_ERROR.name, error_data={"message": message})
    )

"""What a task must fit into before any work is done for it: memory, queue, slots, and the limits of its token."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager

from serve_app.auth.image_quota import ImageQuota
from serve_app.backends.broker_memory import MemoryWatch
from serve_app.backends.redis import FULL_RETRY_AFTER_S
from serve_app.errors import OverloadedError, RateLimitError
from serve_app.generation.admission import ConcurrencySlots, FairSlots
from serve_app.generation.container import Container
from serve_app.generation.queue_eta import QueueEta
from serve_app.generation.settings import GenerationSettings
from serve_app.generation.validation import Caller
from serve_app.tasks.models import Task


class TaskLimits:
    """The limits of one ingress replica, and those that it shares with the others."""

    def __init__(self, settings: GenerationSettings, container: Container, queue_eta: QueueEta) -> None:
        admission, redis, use = settings.admission, container.redis, container.use
        busy_s = admission.retry_after_s
        self._container = container
        self._queue_eta = queue_eta
        self._memory = MemoryWatch(redis)
        self._drawing = FairSlots(admission.max_images, "images are being made", busy_s, use)
        self._queueing = FairSlots(admission.max_queueing, "requests are on their way to the queue", busy_s, use)
        self._slots = ConcurrencySlots(redis, busy_s)
        self._quota = ImageQuota(redis)

    @contextmanager
    def refusals(self, task: Task) -> Iterator[None]:
        """Count a refusal of the task by a limit of its token as use of its owner."""
        try:
            yield
        except RateLimitError:
            self._container.usage.refused(task.token)
            self._container.use.charge_refusal(task.owner)
            raise

    async def check_memory(self, task: Task) -> None:
        """Refuse a new task while there is hardly room for its record; a repeat needs none. Raises: OverloadedError."""
        if await self._memory.is_nearly_full() and not await self._container.tasks.knows(task):
            message = "The broker's memory is nearly full: new tasks are accepted when older ones have expired."
            raise OverloadedError(message, FULL_RETRY_AFTER_S)

    @asynccontextmanager
    async def queueing(self, task: Task, caller: Caller) -> AsyncIterator[None]:
        """A request on its way into the queue. Raises: OverloadedError; RateLimitError; BrokerError."""
        await self._queue_eta.check_load(task, caller.max_queued)
        with self._queueing.hold(task.owner):
            yield

    @asynccontextmanager
    async def synchronous(self, task: Task, caller: Caller) -> AsyncIterator[None]:
        """A request whose client waits for its images. Raises: OverloadedError; RateLimitError; ForbiddenError."""
        images = task.request.batch
        self._drawing.check(task.owner, images)
        async with self._slots.hold(task.token, task.task_id, images, caller.max_images), self.images(task, caller):
            yield

    def images(self, task: Task, caller: Caller) -> AbstractAsyncContextManager[None]:
        """The images of a day that the task takes. Raises: RateLimitError."""
        return self._quota.take(task.token, task.request.batch, caller.max_images_per_day)

    def drawing(self, task: Task) -> AbstractContextManager[None]:
        """The images that are made at once. Raises: OverloadedError."""
        return self._drawing.hold(task.owner, task.request.batch)

"""What a task must fit into before any work is done for it: memory, queue, slots, and the limits of its token.

Slots bound how much one ingress replica does at once, in shares by owner, and all replicas for one token. Those of a
token are in the broker; while that is unavailable, only the shares of the replica apply.
"""

import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from serve_app.auth.image_quota import ImageQuota
from serve_app.backends.broker_memory import MemoryWatch
from serve_app.backends.lua import Script
from serve_app.backends.redis import FULL_RETRY_AFTER_S, Redis
from serve_app.errors import ForbiddenError, OverloadedError, RateLimitError
from serve_app.generation.container import Container
from serve_app.generation.queue_eta import QueueEta
from serve_app.generation.settings import GenerationSettings
from serve_app.generation.validation import Caller
from serve_app.tasks.keys import TaskKeys
from serve_app.tasks.models import LEASE_S, Task

SLOTS_TTL_S = 2 * 3600  # longer than any request lasts


class RefusalMeter(Protocol):
    """Counts refused requests as use of their owners."""

    def charge_refusal(self, owner: str) -> None:
        """Count one."""


class FairSlots:
    """The concurrency slots of one replica for one kind of work, in shares by owner.

    An owner that holds none always gets one request in: nobody can keep another one out. Beyond that a request fits
    while slots are free, or while its owner holds no more than an equal share of them. So one owner alone may use all,
    and all together hold at most about twice as many as there are slots.
    """

    def __init__(self, slots: int, what: str, retry_after_s: int, use: RefusalMeter) -> None:
        """`what` is held, for messages: "images are being made". Refusals are charged to `use`."""
        self._slots = slots
        self._what = what
        self._retry_after_s = retry_after_s
        self._use = use
        self._held: Counter[str] = Counter()

    @property
    def in_use(self) -> float:
        """The share of the slots that is held; above 1 where owners without any were let in beyond."""
        return self._held.total() / self._slots

    def check(self, owner: str, count: int) -> None:
        """Raises: OverloadedError where `hold` would."""
        own, held = self._held[owner], self._held.total()
        if own and held + count > self._slots and own + count > self._slots / len(self._held):
            self._use.charge_refusal(owner)
            message = f"{held} {self._what} already, {own} of them for you, which is your share."
            raise OverloadedError(message, self._retry_after_s)

    @contextmanager
    def hold(self, owner: str, count: int = 1) -> Iterator[None]:
        """Raises: OverloadedError."""
        self.check(owner, count)
        self._held[owner] += count
        try:
            yield
        finally:
            self._held[owner] -= count
            if not self._held[owner]:
                del self._held[owner]


class ConcurrencySlots:
    """The numbers of images that are made at once for each token."""

    def __init__(self, redis: Redis, retry_after_s: int) -> None:
        self._redis = redis
        self._lease_prefix = TaskKeys(redis.prefix).lease("")
        self._retry_after_s = retry_after_s
        self._acquire_script = Script(redis, Path(__file__).with_name("acquire_slots.lua"))

    @asynccontextmanager
    async def hold(self, token: str, task_id: str, images: int, most: int) -> AsyncIterator[None]:
        """Slots for the images of a task while the block runs; `most` is the token's limit, 0: none.

        Raises: ForbiddenError where the task alone exceeds the limit; RateLimitError.
        """
        if most and images > most:
            raise ForbiddenError(f"This token may have {most} images made at once.", accepted=f"a batch of 1 to {most}")
        key = self._redis.key("places", token)
        acquired = bool(most) and await self._acquire(key, task_id, images, most)
        try:
            yield
        finally:
            if acquired:
                await self._redis.breaker.call(
                    lambda: self._redis.hdel(key, task_id), 0, "slots expire with their leases"
                )

    async def _acquire(self, key: str, task_id: str, images: int, most: int) -> bool:
        """False where the broker is unavailable. Raises: RateLimitError."""
        acquire = partial(
            self._acquire_script,
            slots=key,
            task_id=task_id,
            images=images,
            limit=most,
            lease_prefix=self._lease_prefix,
            grace_s=math.ceil(LEASE_S),
            ttl_s=SLOTS_TTL_S,
        )
        taken = await self._redis.breaker.call(acquire, None, "concurrency per token is not limited")
        if taken is None:
            return False
        if taken >= 0:
            message = f"{taken} images of this token are being made; it may have {most} at once."
            raise RateLimitError(message, self._retry_after_s)
        return True


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

    @property
    def slots_in_use(self) -> float:
        """The share of this replica's slots for images that is held."""
        return self._drawing.in_use

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

    async def check_queue(self, task: Task, caller: Caller) -> None:
        """Raises: OverloadedError where the queue is too long for the task; RateLimitError; BrokerError."""
        await self._queue_eta.check_load(task, caller.limits.queued or 0)

    def queueing(self, task: Task) -> AbstractContextManager[None]:
        """A request on its way into the queue. Raises: OverloadedError."""
        return self._queueing.hold(task.owner)

    @asynccontextmanager
    async def synchronous(self, task: Task, caller: Caller) -> AsyncIterator[None]:
        """A request whose client waits for its images. Raises: OverloadedError; RateLimitError; ForbiddenError."""
        images = task.request.batch
        self._drawing.check(task.owner, images)
        async with (
            self._slots.hold(task.token, task.task_id, images, caller.limits.images or 0),
            self.images(task, caller),
        ):
            yield

    def images(self, task: Task, caller: Caller) -> AbstractAsyncContextManager[None]:
        """The images of a day that the task takes. Raises: RateLimitError."""
        most = caller.limits.images_per_day or 0
        return self._quota.take(task.token, task.request.batch, most, task.submitted_at)

    def drawing(self, task: Task) -> AbstractContextManager[None]:
        """The images that are made at once. Raises: OverloadedError."""
        return self._drawing.hold(task.owner, task.request.batch)

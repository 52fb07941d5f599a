"""What the service does with a request, free of HTTP and of Serve."""

import asyncio
import contextvars
import hashlib
import logging
import os
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from deployments.errors import AvatarError, DeadlineError
from deployments.types import Photo
from serve_app.answers import NOW, Place, envelope_of, settled
from serve_app.changes import TaskChanges
from serve_app.decoder import PhotoDecoder
from serve_app.errors import BrokerError, InvalidRequestError, OverloadedError, StoreError, UnknownTaskError
from serve_app.fetch import ImageUrlError, PhotoFetcher, check_url
from serve_app.forecast import Forecast
from serve_app.leases import Leases, TaskLostError
from serve_app.metrics import TaskMetrics
from serve_app.parts import Parts
from serve_app.photo import pack_photo
from serve_app.preflight import Preflight
from serve_app.progress import ProgressReader
from serve_app.queue import Message, TaskQueue
from serve_app.runner import failed, made, within_deadline
from serve_app.schemas import MAX_SEED, AvatarRequest, EffectiveRequest, Envelope, Status
from serve_app.settings import Settings
from serve_app.stages import StageWatch
from serve_app.storage import photo_key
from serve_app.tasks import (
    Claim,
    Outcome,
    Task,
    TaskRecord,
    Webhook,
    idempotency_digest,
    task_files,
)
from serve_app.webhooks import webhook_secret

REPEAT_POLL_S = 0.2  # how often a repeated request looks whether the first one is done
CLOSE_TIMEOUT_S = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is, and the key under which a repeat of it is the same task."""

    owner: str
    idempotency_key: str | None = None
    base_url: str = ""  # as they see this service


class Admission:
    """How many images are being made at once; what would be too many is refused before any work is done for it."""

    def __init__(self, max_images: int, retry_after_s: int) -> None:
        self._max_images = max_images
        self._retry_after_s = retry_after_s
        self._images = 0

    @contextmanager
    def admit(self, images: int) -> Iterator[None]:
        """Raises: OverloadedError."""
        if self._images + images > self._max_images:
            raise OverloadedError(f"{self._images} images are being made already.", self._retry_after_s)
        self._images += images
        try:
            yield
        finally:
            self._images -= images


class AvatarService:
    """Takes a checked request to a record: a finished one, or that of a task in the queue."""

    def __init__(self, settings: Settings, parts: Parts, queue: TaskQueue, stages: StageWatch | None = None) -> None:
        """Without `stages` none of them is ever taken to stand at zero replicas."""
        self.catalog = parts.catalog
        self.results = parts.results
        self._settings = settings
        self._redis = parts.redis
        self._tasks = parts.tasks
        self._queue = queue
        self._runner = parts.runner
        self._pipeline = parts.pipeline
        self._signing_key = parts.signing_key
        self.changes = TaskChanges(parts.redis, parts.keys)
        self._progress = ProgressReader(parts.redis, parts.keys)
        self._leases = Leases(parts.tasks)
        self._fetcher = PhotoFetcher(settings.fetch)
        self._decoder = PhotoDecoder(settings.photo, settings.decoder)
        self._admission = Admission(settings.admission.max_images, settings.admission.retry_after_s)
        self._stages = stages
        self._detached: set[asyncio.Task[TaskRecord]] = set()
        self._metrics = TaskMetrics()

    def new_task(self, request: AvatarRequest, caller: Caller) -> Task:
        """A task of a request, with everything filled in. Raises: UnknownAppError; InvalidRequestError."""
        queue = self._settings.queue
        effective = EffectiveRequest.fill(
            request,
            self.catalog[request.app_id],
            seed=secrets.randbelow(MAX_SEED + 1),
            deadline_s=queue.deadline_s if request.celery else self._settings.deadline_s,
        )
        key = caller.idempotency_key
        return Task(
            task_id=new_task_id(),
            owner=caller.owner,
            request=effective,
            submitted_at=time.time(),
            idempotency=None if key is None else idempotency_digest(caller.owner, key),
            webhook=self._webhook(request, caller),
        )

    def _webhook(self, request: AvatarRequest, caller: Caller) -> Webhook | None:
        """Raises: InvalidRequestError where its URL is none that may be called."""
        if request.webhook_url is None:
            return None
        try:
            check_url(request.webhook_url, self._settings.fetch)
        except ImageUrlError as error:
            problem = {"field": "webhook_url", "message": str(error), "accepted": "an http or https URL"}
            raise InvalidRequestError("The request is not valid.", fields=[problem]) from None
        return Webhook(url=request.webhook_url, base_url=caller.base_url)

    async def create(self, task: Task, request: AvatarRequest) -> TaskRecord:
        """Make the avatars and wait for them, or queue the task; gives its record.

        Raises: AvatarError of every kind that the contract's table names.
        """
        try:
            if request.celery:
                return await self._enqueue(task, request)
            if task.idempotency is not None:
                return await self._make_once(task, request)
            return await self._make_now(task, request)
        except TaskLostError:  # cancelled by a request of its owner's
            return await self._known(task.task_id)

    async def _make_now(self, task: Task, request: AvatarRequest) -> TaskRecord:
        with self._admission.admit(request.batch):
            try:
                await self._tasks.create(task, "STARTED")
            except BrokerError as error:
                if task.webhook is not None:
                    raise
                # Nobody can ask for its state, but whoever sent it waits here for the answer.
                log.warning("task %s is not recorded: %s", task.task_id, error.__cause__)
                return await self._make(task, request, recorded=False)
            async with self._settled(task), self._leases.hold(task.task_id):
                return await self._make(task, request)

    async def _make(self, task: Task, request: AvatarRequest, *, recorded: bool = True) -> TaskRecord:
        """Run a task that is ours and record its success; the rest is for `_settled`. Raises what the runner raises."""
        started_at, fetch_s = time.time(), 0.0

        async def photo() -> Photo:
            nonlocal fetch_s
            fetched = await self._photo(request.file_url)
            fetch_s = time.time() - started_at
            if self._stages is not None:
                await self._stages.require_warm(fetched)
            return fetched

        outcome = made(await self._runner.run(task, photo, recorded=recorded), fetch_s)
        if recorded and not await self._settle(task, "SUCCESS", outcome):
            raise TaskLostError("The task was cancelled.")
        self._metrics.ended(task, "SUCCESS", outcome)
        return TaskRecord(task=task, status="SUCCESS", started_at=started_at, finished_at=time.time(), outcome=outcome)

    @asynccontextmanager
    async def _settled(self, task: Task) -> AsyncIterator[None]:
        """Records the failure or the cancelling of what runs in the block."""
        try:
            yield
        except asyncio.CancelledError:
            # By a client that left; or through the record, which then says so already.
            if await self._settle(task, "CANCELLED", Outcome()):
                self._metrics.ended(task, "CANCELLED", Outcome())
            await self._delete_leftovers(task)
            raise
        except Exception as error:
            if await self._settle(task, "FAILED", failed(error)):
                self._metrics.ended(task, "FAILED", failed(error))
            await self._delete_leftovers(task)
            raise

    async def _make_once(self, task: Task, request: AvatarRequest) -> TaskRecord:
        """Run a task that repeats of its request find: theirs is the same record, and no second run.

        It goes on when its client leaves. A run that died with its ingress is begun again by the next repeat.
        """
        task_id = await self._tasks.create(task, "STARTED", await _body_digest(task, request))
        ours = task if task_id == task.task_id else None
        async with within_deadline(task):
            while True:
                if ours is not None:
                    with suppress(TaskLostError):  # cancelled, or another ingress began it again: wait for that one
                        return await self._detach(self._make_held(ours, request))
                record = await self._known(task_id)
                if record.finished:
                    return record
                ours = await self._taken(record, "STARTED")
                if ours is None:
                    await asyncio.sleep(REPEAT_POLL_S)

    async def _taken(self, record: TaskRecord, status: Status) -> Task | None:
        """The task of a record that nobody works on any more, now ours; None where somebody does."""
        task_id = record.task.task_id
        if record.held or self._leases.holds(task_id):
            return None
        return record.task if await self._tasks.claim(task_id, status) is Claim.OURS else None

    async def _make_held(self, task: Task, request: AvatarRequest) -> TaskRecord:
        async with self._settled(task):  # what is refused here too, so that the next repeat may try
            with self._admission.admit(request.batch):
                async with self._leases.hold(task.task_id):
                    return await self._make(task, request)

    async def _detach(self, work: Coroutine[Any, Any, TaskRecord]) -> TaskRecord:
        """Wait for work that goes on when whoever waits is cancelled."""
        # In a context of its own: Serve cancels the calls that were made in the context of a cancelled request.
        running = asyncio.create_task(work, context=contextvars.Context())
        self._detached.add(running)
        running.add_done_callback(self._forget)
        return await asyncio.shield(running)

    def _forget(self, running: asyncio.Task[TaskRecord]) -> None:
        self._detached.discard(running)
        if not running.cancelled() and (error := running.exception()) and not isinstance(error, AvatarError):
            log.error("a request failed", exc_info=error)

    async def _enqueue(self, task: Task, request: AvatarRequest) -> TaskRecord:
        """Fetch the photo, store it, and put the task into the queue."""
        await self._admit_to_queue(task)
        with self._admission.admit(1):
            task_id = await self._tasks.create(task, "PENDING", await _body_digest(task, request))
            if task.idempotency is None:
                return await self._enqueue_held(task, request)
            # A repeat is answered when the task is in the queue, not before: until then it could still be lost.
            ours = task if task_id == task.task_id else None
            async with within_deadline(task):
                while ours is None:
                    record = await self._known(task_id)
                    if record.finished or record.message_id is not None:
                        return record
                    ours = await self._taken(record, "PENDING")
                    if ours is None:
                        await asyncio.sleep(REPEAT_POLL_S)
            # It goes on when its client leaves: a repeat finds it.
            return await self._detach(self._enqueue_held(ours, request))

    async def _admit_to_queue(self, task: Task) -> None:
        """Raises: OverloadedError where the queue is full, or so long that the task would come too late."""
        forecast, too_late_s, request = await self._forecast(), 0.0, task.request
        if await self._queue.length() >= self._settings.queue.max_tasks:
            refusal = "The queue is full."
        elif forecast is None:
            return
        else:
            position = await self._queue.next_position(request.priority)
            too_late_s = forecast.done_s(position, request.batch) - request.deadline_s
            refusal = "The queue is so long that this would not be done by its deadline."
            if too_late_s <= 0:
                return
        if not await self._tasks.knows(task):
            retry_after_s = self._settings.admission.retry_after_s
            raise OverloadedError(refusal, forecast.retry_after_s(too_late_s) if forecast else retry_after_s)

    async def _forecast(self) -> Forecast | None:
        """None where nothing was measured of late."""
        pace = await self._tasks.pace()
        return None if pace is None else Forecast(pace, await self._queue.running())

    async def _enqueue_held(self, task: Task, request: AvatarRequest) -> TaskRecord:
        async with self._settled(task), self._leases.hold(task.task_id), within_deadline(task):
            photo = await self._photo(request.file_url)
            await self.results.put(photo_key(task.task_id), await asyncio.to_thread(pack_photo, photo))
            await self._tasks.enqueue(task.task_id)
        return await self._known(task.task_id)

    async def preflight(self, file_url: str) -> Preflight:
        """What a photo shows, and whether it would be accepted; wakes no generator, and leaves no record.

        Raises: ImageUrlError; OverloadedError; DeadlineError.
        """
        deadline_s = self._settings.deadline_s
        started = time.perf_counter()
        with self._admission.admit(1):
            try:
                async with asyncio.timeout(deadline_s):
                    photo = await self._photo(file_url)
                    fetched = time.perf_counter()
                    found = await self._pipeline.inspect(photo)
            except TimeoutError:
                raise DeadlineError(f"Not done within {deadline_s:g} s.") from None
        return Preflight.of(photo, found, fetch_s=fetched - started, face_s=time.perf_counter() - fetched)

    async def find(self, task_id: str, owner: str) -> TaskRecord:
        """Raises: UnknownTaskError, also for the tasks of others; BrokerError."""
        record = await self._tasks.get(task_id)
        if record is None or record.task.owner != owner:
            raise UnknownTaskError("There is no task with this id.", task_id=task_id[:64])
        return settled(record, time.time())

    async def envelope(self, record: TaskRecord, base_url: str) -> Envelope:
        """The envelope of a task as it stands. Raises: BrokerError; StoreError."""
        place = NOW if record.finished else await self._place(record)
        return await envelope_of(record, self.results, base_url, place)

    async def _place(self, record: TaskRecord) -> Place:
        position, request, task_id = 0, record.task.request, record.task.task_id
        if record.status == "PENDING" and record.message_id is not None:
            position = await self._queue.position(Message(record.message_id, task_id, request.priority))
        reported = await self._progress.of(task_id) if record.status == "STARTED" else {}
        drawing = {index: image for index, image in reported.items() if index not in record.avatars}
        if drawing and len(drawing) + record.images_done == request.batch:  # the generator knows better than the past
            waiting = min(image.queue_position for image in drawing.values())
            return Place(waiting, round(max(image.eta_s for image in drawing.values()), 1), drawing)
        forecast = await self._forecast()
        if forecast is None:
            return Place(position, None, drawing)
        return Place(position, round(forecast.done_s(position, request.batch - record.images_done), 1), drawing)

    def webhook_secret(self, owner: str) -> str:
        """With which whoever has the owner's token checks what its webhooks get."""
        return webhook_secret(self._signing_key, owner)

    async def cancel(self, task_id: str, owner: str) -> TaskRecord:
        """End an unfinished task, or delete the results of a finished one; may be repeated.

        Raises: UnknownTaskError; BrokerError; StoreError.
        """
        record = await self.find(task_id, owner)
        if await self._tasks.cancel(task_id):
            self._metrics.ended(record.task, "CANCELLED", Outcome())
        record = await self.find(task_id, owner)
        await self.results.delete(task_files(record.task))
        if record.outcome.avatars:
            await self._tasks.forget_avatars(record)
            record = await self.find(task_id, owner)
        return record

    async def check(self) -> None:
        """Raises: BrokerError; StoreError."""
        await asyncio.gather(self._tasks.ping(), self.results.check())

    def start(self) -> None:
        """Get ready for the first requests. (Without it, the first photos wait for their decoders.)"""
        self._decoder.start()

    async def close(self) -> None:
        if self._detached:
            await asyncio.wait(self._detached, timeout=CLOSE_TIMEOUT_S)
        if self._stages is not None:
            self._stages.close()
        await self.changes.close()
        await self._leases.close()
        await self._fetcher.close()
        await self._redis.aclose()
        await self._decoder.close()

    async def _photo(self, url: str) -> Photo:
        return await self._decoder.decode(await self._fetcher.fetch(url))

    async def _known(self, task_id: str) -> TaskRecord:
        record = await self._tasks.get(task_id)
        if record is None:
            raise UnknownTaskError("The record of this task has expired.", task_id=task_id)
        return record

    async def _delete_leftovers(self, task: Task) -> None:
        """The photo, and images that were stored before the task ended without success."""
        try:
            record = await self._tasks.get(task.task_id)
            if record is None or record.status in ("FAILED", "CANCELLED"):
                await self.results.delete(task_files(task))
        except (BrokerError, StoreError):
            log.warning("task %s: its files are not deleted", task.task_id)

    async def _settle(self, task: Task, status: Status, outcome: Outcome) -> bool:
        """False where the task was over, or in other hands."""
        try:
            return await self._tasks.finish(task, status, outcome)
        except BrokerError as error:
            log.warning("task %s: its outcome is not recorded: %s", task.task_id, error.__cause__)
            return True


async def _body_digest(task: Task, request: AvatarRequest) -> str:
    """Tells whether two requests with one idempotency key are the same; empty without a key."""
    if task.idempotency is None:
        return ""
    body = await asyncio.to_thread(request.model_dump_json)  # with a photo of megabytes
    return hashlib.sha256(body.encode()).hexdigest()


def new_task_id() -> str:
    """UUID version 7 (RFC 9562): ids sort by the millisecond of their creation."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))

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
from serve_app.errors import (
    BrokerError,
    ForbiddenError,
    InvalidRequestError,
    OverloadedError,
    RateLimitError,
    StoreError,
    UnknownTaskError,
)
from serve_app.fetch import ImageUrlError, PhotoFetcher, check_url
from serve_app.forecast import Forecast
from serve_app.leases import Leases, TaskLostError
from serve_app.metrics import TaskMetrics
from serve_app.outage import Outage
from serve_app.parts import Parts
from serve_app.photo import pack_photo
from serve_app.preflight import Preflight
from serve_app.progress import ProgressReader
from serve_app.prompt_terms import PromptTerms
from serve_app.provenance import Provenance
from serve_app.queue import Message, TaskQueue
from serve_app.quotas import Places
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
from serve_app.tokens import Token
from serve_app.usage import UsageBook
from serve_app.verify import CredentialReader, VerifyOutput
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
    token: Token | None = None  # with its limits filled in; None: there are none

    @property
    def max_images(self) -> int:
        """At once; 0: any number."""
        return (self.token.limits.images or 0) if self.token else 0

    @property
    def max_queued(self) -> int:
        """Tasks; 0: any number."""
        return (self.token.limits.queued or 0) if self.token else 0


ANYBODY = Caller("")


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
        self.consent_required = settings.require_consent
        self._settings = settings
        self._redis = parts.redis
        self._tasks = parts.tasks
        self._queue = queue
        self._runner = parts.runner
        self._pipeline = parts.pipeline
        self._greed = parts.greed
        self._signing_key = parts.signing_key
        self.changes = TaskChanges(parts.redis, parts.keys)
        self._progress = ProgressReader(parts.redis, parts.keys)
        self._leases = Leases(parts.tasks)
        self._fetcher = PhotoFetcher(settings.fetch)
        self._decoder = PhotoDecoder(settings.photo, settings.decoder)
        certificates = Provenance(settings.provenance, settings.broker, settings.data_dir).certificates()
        self._credentials = CredentialReader(certificates, settings.decoder)
        self._terms = PromptTerms(settings.safety.prompt_terms)
        self._admission = Admission(settings.admission.max_images, settings.admission.retry_after_s)
        self._stages = stages
        self._detached: set[asyncio.Task[TaskRecord]] = set()
        self._metrics = TaskMetrics()
        self.usage = UsageBook(parts.redis, parts.keys, settings.tokens.usage_days)
        self._places = Places(parts.redis, parts.keys, Outage(), settings.admission.retry_after_s)

    def new_task(self, request: AvatarRequest, caller: Caller) -> Task:
        """A task of a request, with everything filled in.

        Raises: UnknownAppError; InvalidRequestError; ForbiddenError where the licences of the app forbid its use.
        """
        app = self.catalog[request.app_id]
        if refusal := self.catalog.refusal(request.app_id, self._settings.license_mode):
            raise ForbiddenError(refusal)
        self._check_consent(request)
        queue = self._settings.queue
        effective = EffectiveRequest.fill(
            request,
            app,
            seed=secrets.randbelow(MAX_SEED + 1),
            deadline_s=queue.deadline_s if request.celery else self._settings.deadline_s,
        )
        self._check_prompt(effective.prompt, "gender" if request.prompt is None else "prompt")
        key = caller.idempotency_key
        return Task(
            task_id=new_task_id(),
            owner=caller.owner,
            request=effective,
            submitted_at=time.time(),
            idempotency=None if key is None else idempotency_digest(caller.owner, key),
            webhook=self._webhook(request, caller),
            token=caller.token.id if caller.token else "",
        )

    def _check_consent(self, request: AvatarRequest) -> None:
        """Raises: InvalidRequestError where this service asks for consent, and the request does not say so."""
        if self._settings.require_consent and not request.consent:
            message = "this service takes a photo only with the consent of the person on it"
            problem = {"field": "consent", "message": message, "accepted": {"const": True}}
            raise InvalidRequestError("The request is not valid.", fields=[problem])

    def _check_prompt(self, prompt: str, field: str) -> None:
        """Raises: InvalidRequestError where it has a word that this service refuses; which one is not said."""
        if self._terms.refuse(prompt):
            problem = {"field": field, "message": "has a word that this service refuses"}
            raise InvalidRequestError("The request is not valid.", fields=[problem])

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

    def apps(self) -> list[dict[str, Any]]:
        """What clients are told of the apps."""
        listed = []
        for app_id, app in self.catalog.apps.items():
            refusal = self.catalog.refusal(app_id, self._settings.license_mode)
            listed.append(
                {
                    "app_id": app_id,
                    **app.model_dump(),
                    "licences": [licence.model_dump() for licence in self.catalog.licences(app_id)],
                    "available": not refusal,
                    "unavailable_reason": refusal,
                }
            )
        return listed

    async def create(self, task: Task, request: AvatarRequest, caller: Caller = ANYBODY) -> TaskRecord:
        """Make the avatars and wait for them, or queue the task; gives its record.

        Raises: AvatarError of every kind that the contract's table names.
        """
        try:
            if request.celery:
                return await self._enqueue(task, request, caller)
            if task.idempotency is not None:
                return await self._make_once(task, request, caller)
            return await self._make_now(task, request, caller)
        except TaskLostError:  # cancelled by a request of its owner's
            return await self._known(task.task_id)
        except RateLimitError:
            self.usage.refused(task.token)
            await self._greed.refused(task.token)
            raise

    @asynccontextmanager
    async def _admitted(self, task: Task, caller: Caller) -> AsyncIterator[None]:
        """Places for the images of a task, among those of this replica and among those of the token.

        Raises: OverloadedError; RateLimitError; ForbiddenError.
        """
        images = task.request.batch
        with self._admission.admit(images):
            async with self._places.hold(task.token, task.task_id, images, caller.max_images):
                yield

    async def _make_now(self, task: Task, request: AvatarRequest, caller: Caller) -> TaskRecord:
        async with self._admitted(task, caller):
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
        self.usage.made(task.token, outcome.avatars)
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

    async def _make_once(self, task: Task, request: AvatarRequest, caller: Caller) -> TaskRecord:
        """Run a task that repeats of its request find: theirs is the same record, and no second run.

        It goes on when its client leaves. A run that died with its ingress is begun again by the next repeat.
        """
        task_id = await self._tasks.create(task, "STARTED", await _body_digest(task, request))
        ours = task if task_id == task.task_id else None
        async with within_deadline(task):
            while True:
                if ours is not None:
                    with suppress(TaskLostError):  # cancelled, or another ingress began it again: wait for that one
                        return await self._detach(self._make_held(ours, request, caller))
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

    async def _make_held(self, task: Task, request: AvatarRequest, caller: Caller) -> TaskRecord:
        # What is refused is settled too, so that the next repeat may try.
        async with self._settled(task), self._admitted(task, caller), self._leases.hold(task.task_id):
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

    async def _enqueue(self, task: Task, request: AvatarRequest, caller: Caller) -> TaskRecord:
        """Fetch the photo, store it, and put the task into the queue."""
        await self._admit_to_queue(task, caller)
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

    async def _admit_to_queue(self, task: Task, caller: Caller) -> None:
        """Raises: RateLimitError; OverloadedError where the queue is full, or so long that it would come too late."""
        forecast, too_late_s, request = await self._forecast(), 0.0, task.request
        queued, most = await self._tasks.queued_of(task.owner), caller.max_queued
        if most and queued.tasks >= most and not await self._tasks.knows(task):
            message = f"{queued.tasks} tasks of this token are in the queue; it may have {most}."
            raise RateLimitError(message, self._settings.admission.retry_after_s)
        if await self._queue.length() >= self._settings.queue.max_tasks:
            refusal = "The queue is full."
        elif forecast is None:
            return
        else:
            stands_back = request.priority == "normal" and queued.next_one == "low"
            position = await self._queue.next_position("low" if stands_back else request.priority)
            if stands_back:  # its owner's tasks take turns with those of others
                position = min(position, queued.tasks * await self._queue.next_position("normal"))
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
        started = time.perf_counter()
        async with self._looking():
            photo = await self._photo(file_url)
            fetched = time.perf_counter()
            found = await self._pipeline.inspect(photo)
        return Preflight.of(photo, found, fetch_s=fetched - started, face_s=time.perf_counter() - fetched)

    async def verify(self, file_url: str) -> VerifyOutput:
        """Whether a picture is one of ours, and intact; leaves no record.

        Raises: ImageUrlError; OverloadedError; DeadlineError.
        """
        async with self._looking():
            data = await self._fetcher.fetch(file_url)
            found = await self._credentials.verify(data)
            if found.credentials is None:
                await self._decoder.decode(data)  # what is no picture at all is refused
        return found

    @asynccontextmanager
    async def _looking(self) -> AsyncIterator[None]:
        """Room and time for a look at one picture. Raises: OverloadedError; DeadlineError."""
        deadline_s = self._settings.deadline_s
        with self._admission.admit(1):
            try:
                async with asyncio.timeout(deadline_s):
                    yield
            except TimeoutError:
                raise DeadlineError(f"Not done within {deadline_s:g} s.") from None

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
            position = await self._queue.position(Message(record.message_id, task_id, record.priority))
            before = await self._tasks.standing_back(task_id, record.task.owner) if position else None
            if before is not None:
                position = min(position, (before + 1) * await self._queue.next_position("normal"))
        reported = await self._progress.of(task_id) if record.status == "STARTED" else {}
        drawing = {index: image for index, image in reported.items() if index not in record.avatars}
        if drawing and len(drawing) + record.images_done == request.batch:  # the generator knows better than the past
            # Of a task whose first image is done, the others wait for a place among its own.
            waiting = 0 if record.images_done else min(image.queue_position for image in drawing.values())
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
        await self.usage.close()
        await self._fetcher.close()
        await self._redis.aclose()
        await self._decoder.close()
        await self._credentials.close()

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

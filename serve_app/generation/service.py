"""What the service does with a request, free of HTTP and of Serve."""

import asyncio
import contextvars
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from deployments.errors import AvatarError, DeadlineError
from deployments.types import Photo
from serve_app.auth.usage import UsageBook
from serve_app.auth.webhook_signature import webhook_secret
from serve_app.backends.circuit_breaker import CircuitBreaker
from serve_app.backends.object_store import photo_key
from serve_app.errors import BrokerError, RateLimitError, StoreError, UnknownTaskError
from serve_app.generation.admission import ConcurrencyLimit, ConcurrencySlots
from serve_app.generation.container import Container
from serve_app.generation.envelope import NOW, envelope_of, finalised
from serve_app.generation.executor import failure_outcome, success_outcome, within_deadline
from serve_app.generation.queue_eta import QueueEta
from serve_app.generation.settings import GenerationSettings
from serve_app.generation.validation import ANYBODY, Caller, RequestValidator
from serve_app.photos.decode import pack_photo
from serve_app.photos.decoder_pool import PhotoDecoder
from serve_app.photos.fetch import PhotoFetcher
from serve_app.pipeline.cold_start import StageMonitor
from serve_app.provenance.signing import Provenance
from serve_app.provenance.verify import CredentialReader, VerifyOutput
from serve_app.schemas.faces import Preflight
from serve_app.schemas.requests import AvatarRequest
from serve_app.schemas.responses import Envelope, Status
from serve_app.tasks.change_stream import ChangeStream
from serve_app.tasks.leases import Leases, TaskLostError
from serve_app.tasks.metrics import TaskMetrics
from serve_app.tasks.models import Claim, Outcome, Task, TaskRecord, task_files
from serve_app.tasks.progress import ProgressReader
from serve_app.tasks.stream import TaskQueue

REPEAT_POLL_S = 0.2  # how often a repeated request looks whether the first one is done
CLOSE_TIMEOUT_S = 10

log = logging.getLogger(__name__)


class AvatarService:
    """Takes a checked request to a record: a finished one, or that of a task in the queue."""

    def __init__(
        self, settings: GenerationSettings, container: Container, queue: TaskQueue, stages: StageMonitor | None = None
    ) -> None:
        """Without `stages` none of them is ever taken to stand at zero replicas."""
        self.catalog = container.catalog
        self.results = container.results
        self.consent_required = settings.require_consent
        self._settings = settings
        self._redis = container.redis
        self._tasks = container.tasks
        self.validator = RequestValidator(settings, container.catalog)
        self._runner = container.runner
        self._pipeline = container.pipeline
        self._penalties = container.penalties
        self._signing_key = container.signing_key
        self.changes = ChangeStream(container.redis, container.keys)
        self._queue_eta = QueueEta(settings, container.tasks, queue, ProgressReader(container.redis, container.keys))
        self._leases = Leases(container.tasks)
        self._fetcher = PhotoFetcher(settings.fetch)
        self._decoder = PhotoDecoder(settings.photo, settings.decoder)
        certificates = Provenance(settings.provenance, settings.broker, settings.data_dir).certificates()
        self._credentials = CredentialReader(certificates, settings.decoder)
        self._concurrency = ConcurrencyLimit(settings.admission.max_images, settings.admission.retry_after_s)
        self._stages = stages
        self._detached: set[asyncio.Task[TaskRecord]] = set()
        self._metrics = TaskMetrics()
        self.usage = UsageBook(container.redis, container.keys, settings.tokens.usage_days)
        self._slots = ConcurrencySlots(
            container.redis, container.keys, CircuitBreaker(), settings.admission.retry_after_s
        )

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
            await self._penalties.count_refusal(task.token)
            raise

    @asynccontextmanager
    async def _admitted(self, task: Task, caller: Caller) -> AsyncIterator[None]:
        """ConcurrencySlots for the images of a task, among those of this replica and among those of the token.

        Raises: OverloadedError; RateLimitError; ForbiddenError.
        """
        images = task.request.batch
        with self._concurrency.hold(images):
            async with self._slots.hold(task.token, task.task_id, images, caller.max_images):
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
            async with self._finalising(task), self._leases.hold(task.task_id):
                return await self._make(task, request)

    async def _make(self, task: Task, request: AvatarRequest, *, recorded: bool = True) -> TaskRecord:
        """Run a leased task and record its success. Raises: what the executor raises; `_finalising` records it."""
        started_at, fetch_s = time.time(), 0.0

        async def photo() -> Photo:
            nonlocal fetch_s
            fetched = await self._photo(request.file_url)
            fetch_s = time.time() - started_at
            if self._stages is not None:
                await self._stages.require_warm(fetched)
            return fetched

        outcome = success_outcome(await self._runner.run(task, photo, recorded=recorded), fetch_s)
        if recorded and not await self._finalise(task, "SUCCESS", outcome):
            raise TaskLostError("The task was cancelled.")
        self._metrics.ended(task, "SUCCESS", outcome)
        self.usage.made(task.token, outcome.avatars)
        return TaskRecord(task=task, status="SUCCESS", started_at=started_at, finished_at=time.time(), outcome=outcome)

    @asynccontextmanager
    async def _finalising(self, task: Task) -> AsyncIterator[None]:
        """Records the failure or the cancelling of what runs in the block."""
        try:
            yield
        except asyncio.CancelledError:
            # By a client that left; or through the record, which then says so already.
            if await self._finalise(task, "CANCELLED", Outcome()):
                self._metrics.ended(task, "CANCELLED", Outcome())
            await self._delete_files(task)
            raise
        except Exception as error:
            if await self._finalise(task, "FAILED", failure_outcome(error)):
                self._metrics.ended(task, "FAILED", failure_outcome(error))
            await self._delete_files(task)
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
        if record.is_leased or self._leases.holds(task_id):
            return None
        return record.task if await self._tasks.claim(task_id, status) is Claim.OURS else None

    async def _make_held(self, task: Task, request: AvatarRequest, caller: Caller) -> TaskRecord:
        # What is refused is finalised too, so that the next repeat may try.
        async with self._finalising(task), self._admitted(task, caller), self._leases.hold(task.task_id):
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
        await self._queue_eta.check_load(task, caller.max_queued)
        with self._concurrency.hold(1):
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

    async def _enqueue_held(self, task: Task, request: AvatarRequest) -> TaskRecord:
        async with self._finalising(task), self._leases.hold(task.task_id), within_deadline(task):
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
        with self._concurrency.hold(1):
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
        return finalised(record, time.time())

    async def envelope(self, record: TaskRecord, base_url: str) -> Envelope:
        """The envelope of a task as it stands. Raises: BrokerError; StoreError."""
        place = NOW if record.finished else await self._queue_eta.place(record)
        return await envelope_of(record, self.results, base_url, place)

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

    async def _delete_files(self, task: Task) -> None:
        """The photo, and images that were stored before the task ended without success."""
        try:
            record = await self._tasks.get(task.task_id)
            if record is None or record.status in ("FAILED", "CANCELLED"):
                await self.results.delete(task_files(task))
        except (BrokerError, StoreError):
            log.warning("task %s: its files are not deleted", task.task_id)

    async def _finalise(self, task: Task, status: Status, outcome: Outcome) -> bool:
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

"""The service behind the HTTP API, without HTTP and without Serve."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from deployments.types import Photo
from serve_app.auth.image_quota import ImageQuota
from serve_app.auth.usage import UsageBook
from serve_app.auth.webhook_signature import webhook_secret
from serve_app.backends.broker_memory import MemoryWatch
from serve_app.backends.object_store import photo_key
from serve_app.backends.redis import FULL_RETRY_AFTER_S
from serve_app.errors import BrokerError, OverloadedError, RateLimitError, UnknownTaskError
from serve_app.generation.admission import ConcurrencySlots, FairSlots
from serve_app.generation.container import Container
from serve_app.generation.envelope import IN_PROGRESS, effective_record, envelope_of
from serve_app.generation.executor import FinalOutcome, TaskFinaliser, failure_outcome, time_limit, within_deadline
from serve_app.generation.queue_eta import QueueEta
from serve_app.generation.settings import GenerationSettings
from serve_app.generation.validation import ANYBODY, Caller, RequestValidator
from serve_app.photos.decode import pack_photo
from serve_app.photos.decoder_pool import PhotoDecoder
from serve_app.photos.fetch import PhotoFetcher
from serve_app.photos.source import PhotoSource
from serve_app.pipeline.calls import detach
from serve_app.pipeline.cold_start import StageMonitor
from serve_app.provenance.signing import Provenance
from serve_app.provenance.verify import CredentialReader, VerifyOutput
from serve_app.schemas.faces import Preflight
from serve_app.schemas.requests import AvatarRequest, body_digest
from serve_app.schemas.responses import Envelope, Status
from serve_app.tasks.change_stream import ChangeStream
from serve_app.tasks.leases import Leases, TaskLostError
from serve_app.tasks.models import Claim, Outcome, Task, TaskRecord, task_files
from serve_app.tasks.queue_snapshot import QueueReader

REPEAT_POLL_S = 0.2  # between reads of the first request's record by a repeat
CLOSE_TIMEOUT_S = 10
CANCELLED = FinalOutcome("CANCELLED", Outcome())

log = logging.getLogger(__name__)


class AvatarService:
    """Turns a validated request into the record of a finished or a queued task."""

    def __init__(self, settings: GenerationSettings, container: Container, stages: StageMonitor | None = None) -> None:
        """Without `stages`, all stages count as having replicas."""
        self.catalog = container.catalog
        self.results = container.results
        self.consent_required = settings.require_consent
        self._settings = settings
        self._redis = container.redis
        self._tasks = container.tasks
        self.validator = RequestValidator(settings, container.catalog)
        self._executor = container.executor
        self._pipeline = container.pipeline
        self._use = container.use
        self._signing_key = container.signing_key
        self.changes = ChangeStream(container.redis)
        self._memory = MemoryWatch(container.redis)
        self._queue_eta = QueueEta(settings, container.tasks, QueueReader(container.redis))
        self._leases = Leases(container.tasks)
        self._fetcher = PhotoFetcher(settings.fetch)
        self._decoder = PhotoDecoder(settings.photo, settings.decoder, self._use)
        certificates = Provenance(settings.provenance, settings.broker, settings.data_dir).certificates()
        self._credentials = CredentialReader(certificates, settings.decoder, self._use)
        admission = settings.admission

        def slots(most: int, what: str) -> FairSlots:
            return FairSlots(most, what, admission.retry_after_s, self._use)

        self._drawing = slots(admission.max_images, "images are being made")
        self._queueing = slots(admission.max_queueing, "requests are on their way to the queue")
        self._inspections = slots(admission.max_inspections, "pictures are looked at")
        self._fetches = slots(admission.max_fetches, "photos are being fetched")
        self._repeats = slots(admission.max_repeats, "requests wait for the answer to one with their key")
        self._stages = stages
        self._detached: set[asyncio.Task[TaskRecord]] = set()
        self.usage = UsageBook(container.redis, settings.tokens.usage_days)
        self._finaliser = TaskFinaliser(container.tasks, container.results, self.usage)
        self._quota = ImageQuota(container.redis)
        self._slots = ConcurrencySlots(container.redis, admission.retry_after_s)

    def apps(self) -> list[dict[str, Any]]:
        """The apps of the catalogue as clients see them."""
        return [
            {
                "app_id": app_id,
                **app.model_dump(),
                "licences": [licence.model_dump() for licence in self.catalog.licences(app_id)],
                "available": not (refusal := self.catalog.refusal(app_id, self._settings.license_mode)),
                "unavailable_reason": refusal,
            }
            for app_id, app in self.catalog.apps.items()
        ]

    async def create(self, task: Task, request: AvatarRequest, caller: Caller = ANYBODY) -> TaskRecord:
        """Make the avatars and wait for them, or queue the task; returns its record.

        Raises: AvatarError of every kind that the contract's table names.
        """
        await self._check_memory(task)
        try:
            if request.celery:
                return await self._enqueue(task, request, caller)
            if task.idempotency is None:
                return await self._make(task, request, caller)
            return await self._once(task, "STARTED", request, lambda leased: self._make_leased(leased, request, caller))
        except TaskLostError:  # its owner cancelled it
            return await self._record(task.task_id)
        except RateLimitError:
            self.usage.refused(task.token)
            self._use.charge_refusal(task.owner)
            raise

    async def _check_memory(self, task: Task) -> None:
        """Refuse a new task while there is hardly room for its record; a repeat needs none. Raises: OverloadedError."""
        if await self._memory.is_nearly_full() and not await self._tasks.knows(task):
            message = "The broker's memory is nearly full: new tasks are accepted when older ones have expired."
            raise OverloadedError(message, FULL_RETRY_AFTER_S)

    async def _make(self, task: Task, request: AvatarRequest, caller: Caller) -> TaskRecord:
        async with self._within_limits(task, caller):
            try:
                await self._tasks.create(task, "STARTED")
            except BrokerError as error:
                if task.webhook is not None:
                    raise
                # Its state cannot be queried, but the client waits for the answer to this request.
                log.warning("task %s is not recorded: %s", task.task_id, error.__cause__)
                return await self._run(task, request, recorded=False)
            async with self._finalising(task), self._leases.hold(task.task_id):
                return await self._run(task, request)

    async def _make_leased(self, task: Task, request: AvatarRequest, caller: Caller) -> TaskRecord:
        # A refusal is finalised too, so that a repeat may try again.
        async with self._finalising(task), self._within_limits(task, caller), self._leases.hold(task.task_id):
            return await self._run(task, request)

    @asynccontextmanager
    async def _within_limits(self, task: Task, caller: Caller) -> AsyncIterator[None]:
        """Refuse a task that there is no room for before any work is done, and keep to the limit of its token.

        Raises: OverloadedError; RateLimitError; ForbiddenError.
        """
        images = task.request.batch
        self._drawing.check(task.owner, images)
        async with (
            self._slots.hold(task.token, task.task_id, images, caller.max_images),
            self._quota.take(task.token, images, caller.max_images_per_day),
        ):
            yield

    async def _run(self, task: Task, request: AvatarRequest, *, recorded: bool = True) -> TaskRecord:
        """Run a leased task and finalise its success; `_finalising` finalises the rest.

        Raises: TaskLostError; what the executor raises.
        """
        started_at = time.time()
        outcome = await self._executor.run(
            task,
            lambda: self._photo_for_warm_stages(request.file_url, task.owner),
            recorded=recorded,
            slots=self._drawing.hold(task.owner, task.request.batch),
        )
        success = FinalOutcome("SUCCESS", outcome)
        if recorded:
            await self._finaliser.finalise(task, success)
        else:
            self._finaliser.count(task, success)
        return TaskRecord(task=task, status="SUCCESS", started_at=started_at, finished_at=time.time(), outcome=outcome)

    @asynccontextmanager
    async def _finalising(self, task: Task) -> AsyncIterator[None]:
        """Finalise a task whose block fails or is cancelled; without retries, as its client waits for the answer."""
        try:
            yield
        except (asyncio.CancelledError, Exception) as error:
            # CancelledError: the client disconnected. TaskLostError: the record has the outcome already.
            cancelled = isinstance(error, asyncio.CancelledError)
            with suppress(TaskLostError):
                await self._finaliser.finalise(
                    task, CANCELLED if cancelled else FinalOutcome("FAILED", failure_outcome(error))
                )
            try:
                await self._finaliser.clean_up(task)
            except BrokerError:
                log.warning("task %s: its files are not deleted", task.task_id)
            raise

    async def _once(
        self,
        task: Task,
        status: Status,
        request: AvatarRequest,
        run: Callable[[Task], Coroutine[Any, Any, TaskRecord]],
    ) -> TaskRecord:
        """Run a task once for all requests with its idempotency key; repeats wait for its record.

        The run continues when its client disconnects. If its ingress dies, the next repeat runs it again.
        """
        task_id = await self._tasks.create(task, status, await asyncio.to_thread(body_digest, request))
        async with within_deadline(task):
            if task_id == task.task_id:
                with suppress(TaskLostError):  # cancelled, or leased by another ingress: wait for the record
                    return await self._run_on(task, request, run)
            record = await self._record(task_id)
            if _is_answered(record):
                return record
            with self._repeats.hold(task.owner):
                while not _is_answered(record):
                    leased = await self._claim(record, status)
                    if leased is None:
                        await asyncio.sleep(REPEAT_POLL_S)
                    else:
                        with suppress(TaskLostError):
                            return await self._run_on(leased, request, run)
                    record = await self._record(task_id)
                return record

    async def _run_on(
        self, task: Task, request: AvatarRequest, run: Callable[[Task], Coroutine[Any, Any, TaskRecord]]
    ) -> TaskRecord:
        """Run a leased task, which goes on if this request is cancelled. Raises: what `run` raises."""
        running = detach(run(task), self._detached, "a request failed")
        request.file_url.retain()  # the run may outlive this request
        running.add_done_callback(lambda _: request.file_url.release())
        return await asyncio.shield(running)

    async def _claim(self, record: TaskRecord, status: Status) -> Task | None:
        """Lease the task of a record; None where another request or process still works on it."""
        task_id = record.task.task_id
        if record.is_leased or self._leases.holds(task_id):
            return None
        return record.task if await self._tasks.claim(task_id, status) is Claim.ACQUIRED else None

    async def _enqueue(self, task: Task, request: AvatarRequest, caller: Caller) -> TaskRecord:
        await self._queue_eta.check_load(task, caller.max_queued)
        with self._queueing.hold(task.owner):
            if task.idempotency is not None:
                return await self._once(
                    task, "PENDING", request, lambda leased: self._enqueue_leased(leased, request, caller)
                )
            await self._tasks.create(task, "PENDING")
            return await self._enqueue_leased(task, request, caller)

    async def _enqueue_leased(self, task: Task, request: AvatarRequest, caller: Caller) -> TaskRecord:
        """Fetch the photo, store it, and put the task into the queue."""
        async with (
            self._finalising(task),
            self._quota.take(task.token, task.request.batch, caller.max_images_per_day),
            self._leases.hold(task.task_id),
            within_deadline(task),
        ):
            photo = await self._photo(request.file_url, task.owner)
            await self.results.put(photo_key(task.task_id), await asyncio.to_thread(pack_photo, photo))
            record = await self._tasks.enqueue(task.task_id, behind=self._use.is_flooding(task.owner))
        return record or await self._record(task.task_id)

    async def preflight(self, source: PhotoSource, owner: str) -> Preflight:
        """The faces of a photo, and whether it would be accepted. Leaves no record, and scales no generator up.

        Raises: ImageUrlError; OverloadedError; DeadlineError.
        """
        started = time.perf_counter()
        async with self._inspecting(owner):
            photo = await self._photo(source, owner)
            fetched = time.perf_counter()
            found = await self._pipeline.inspect(photo, self._use.used_s(owner))
            face_s = time.perf_counter() - fetched
        return Preflight.of(photo, found, fetch_s=fetched - started, face_s=face_s)

    async def verify(self, source: PhotoSource, owner: str) -> VerifyOutput:
        """Whether a picture is an unmodified one of this service. Leaves no record.

        Raises: ImageUrlError; OverloadedError; DeadlineError.
        """
        async with self._inspecting(owner):
            data = await self._fetch(source, owner)
            found = await self._credentials.verify(data, owner)
            if found.credentials is None:
                await self._decoder.decode(data, owner)  # raises where it is no picture at all
        return found

    @asynccontextmanager
    async def _inspecting(self, owner: str) -> AsyncIterator[None]:
        """Limits how many pictures are inspected at once, and how long. Raises: OverloadedError; DeadlineError."""
        deadline_s = self._settings.deadline_s
        with self._inspections.hold(owner):
            try:
                async with time_limit(deadline_s, limit_s=deadline_s):
                    yield
            except RateLimitError:
                self._use.charge_refusal(owner)
                raise

    async def find(self, task_id: str, owner: str) -> TaskRecord:
        """Raises: UnknownTaskError, also for tasks of another owner; BrokerError."""
        record = await self._tasks.get(task_id)
        if record is None or record.task.owner != owner:
            raise UnknownTaskError("There is no task with this id.", task_id=task_id[:64])
        return effective_record(record, time.time())

    async def envelope(self, record: TaskRecord, base_url: str) -> Envelope:
        """The envelope of a task in its present state. Raises: BrokerError; StoreError."""
        position = IN_PROGRESS if record.finished else await self._queue_eta.position(record)
        return await envelope_of(record, self.results, base_url, position)

    def webhook_secret(self, owner: str) -> str:
        """The secret with which an owner verifies the signatures of its webhooks."""
        return webhook_secret(self._signing_key, owner)

    async def cancel(self, task_id: str, owner: str) -> TaskRecord:
        """End an unfinished task, or delete the results of a finished one; may be repeated.

        Raises: UnknownTaskError; BrokerError; StoreError.
        """
        record = await self.find(task_id, owner)
        if await self._tasks.cancel(task_id):
            self._finaliser.count(record.task, CANCELLED)
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
        """Start the photo decoders, for which the first photos would otherwise wait."""
        self._decoder.start()

    async def close(self) -> None:
        """Wait up to CLOSE_TIMEOUT_S for runs whose clients have left, then end background work and processes."""
        if self._detached:
            await asyncio.wait(self._detached, timeout=CLOSE_TIMEOUT_S)
        if self._stages is not None:
            self._stages.close()
        await self.changes.close()
        await self._leases.close()
        await self.usage.close()
        await self._use.close()
        await self._redis.aclose()
        await self._decoder.close()
        await self._credentials.close()

    async def _fetch(self, source: PhotoSource, owner: str) -> bytes:
        """Raises: ImageUrlError; OverloadedError where the owner fetches more than its share, or it was dropped."""
        with self._fetches.hold(owner):
            return await self._fetcher.fetch(source, owner)

    async def _photo(self, source: PhotoSource, owner: str) -> Photo:
        photo = await self._decoder.decode(await self._fetch(source, owner), owner)
        source.drop()  # what follows may take minutes
        return photo

    async def _photo_for_warm_stages(self, source: PhotoSource, owner: str) -> Photo:
        """Raises: OverloadedError where a stage has no replica, which is then started."""
        photo = await self._photo(source, owner)
        if self._stages is not None:
            await self._stages.require_warm(photo)
        return photo

    async def _record(self, task_id: str) -> TaskRecord:
        record = await self._tasks.get(task_id)
        if record is None:
            raise UnknownTaskError("The record of this task has expired.", task_id=task_id)
        return record


def _is_answered(record: TaskRecord) -> bool:
    """A queued task is answered once it is in the queue: until then it could still be lost."""
    return record.finished or record.message_id is not None

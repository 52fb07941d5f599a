"""The service behind the HTTP API, without HTTP and without Serve."""

import asyncio
import time
from typing import Any

from serve_app.auth.webhook_signature import webhook_secret
from serve_app.errors import UnknownTaskError
from serve_app.generation.container import Container
from serve_app.generation.creation import TaskCreation
from serve_app.generation.envelope import IN_PROGRESS, effective_record, envelope_of
from serve_app.generation.execution import CANCELLED, TaskExecution
from serve_app.generation.pictures import PhotoIntake, PictureInspection
from serve_app.generation.queue_eta import QueueEta
from serve_app.generation.settings import GenerationSettings
from serve_app.generation.validation import RequestValidator
from serve_app.pipeline.cold_start import StageMonitor
from serve_app.schemas.responses import Envelope
from serve_app.tasks.change_stream import ChangeStream
from serve_app.tasks.models import TaskRecord, task_files
from serve_app.tasks.previews import Previews
from serve_app.tasks.queue_snapshot import QueueReader


class AvatarService:
    """What clients may ask of one ingress replica: `creation`, `inspection`, and here about their tasks and itself."""

    def __init__(self, settings: GenerationSettings, container: Container, stages: StageMonitor | None = None) -> None:
        """Without `stages`, all stages count as having replicas."""
        self.settings = settings
        self._container = container
        self.results = container.results
        self._execution = container.execution()
        self._queue_eta = QueueEta(settings, container.tasks, QueueReader(container.redis))
        self._intake = PhotoIntake(settings, container.use)
        self.validator = RequestValidator(settings, container.catalog)
        self.creation = TaskCreation(settings, container, self._execution, self._intake, self._queue_eta, stages)
        self.inspection = PictureInspection(settings, self._intake, container.pipeline, container.use)
        self.changes = ChangeStream(container.redis)

    @property
    def container(self) -> Container:
        """What it is built on, for what is built beside it."""
        return self._container

    @property
    def execution(self) -> TaskExecution:
        """How tasks of this replica are run and ended."""
        return self._execution

    @property
    def intake(self) -> PhotoIntake:
        """Where photos of this replica come in."""
        return self._intake

    def apps(self) -> list[dict[str, Any]]:
        """The apps of the catalogue as clients see them."""
        catalog = self._container.catalog
        return [
            {
                "app_id": app_id,
                **app.model_dump(),
                "qualities": list(app.qualities),
                "licences": [licence.model_dump() for licence in catalog.licences(app_id)],
                "available": not (refusal := catalog.refusal(app_id, self.settings.license_mode)),
                "unavailable_reason": refusal,
            }
            for app_id, app in catalog.apps.items()
        ]

    async def find(self, task_id: str, owner: str) -> TaskRecord:
        """Raises: UnknownTaskError, also for tasks of another owner; BrokerError."""
        record = await self._container.tasks.get(task_id)
        if record is None or record.task.owner != owner:
            raise UnknownTaskError("There is no task with this id.", task_id=task_id[:64])
        return effective_record(record, time.time())

    async def envelope(self, record: TaskRecord, base_url: str, previews: Previews | None = None) -> Envelope:
        """The envelope of a task in its present state. Raises: BrokerError; StoreError."""
        position = IN_PROGRESS if record.finished else await self._queue_eta.position(record)
        return await envelope_of(record, self.results, base_url, position, previews)

    def webhook_secret(self, owner: str) -> str:
        """The secret with which an owner verifies the signatures of its webhooks."""
        return webhook_secret(self._container.signing_key, owner)

    async def cancel(self, task_id: str, owner: str) -> TaskRecord:
        """End an unfinished task, or delete the results of a finished one; may be repeated.

        Raises: UnknownTaskError; BrokerError; StoreError.
        """
        tasks = self._container.tasks
        record = await self.find(task_id, owner)
        if await tasks.cancel(task_id):
            self._execution.count(record.task, CANCELLED)
        record = await self.find(task_id, owner)
        await self.results.delete(task_files(record.task))
        if record.outcome.avatars:
            await tasks.forget_avatars(record)
            record = await self.find(task_id, owner)
        return record

    async def check(self) -> None:
        """Raises: BrokerError; StoreError."""
        await asyncio.gather(self._container.tasks.ping(), self.results.check())

    def start(self) -> None:
        """Start the photo decoders, for which the first photos would otherwise wait."""
        self._intake.decoder.start()

    async def close(self) -> None:
        """Wait a while for runs whose clients have left, then end background work and processes."""
        await self.creation.close()
        await self.changes.close()
        await self.changes.previews.close()
        await self._execution.close()
        await self._container.close()
        await self._intake.decoder.close()
        await self.inspection.close()

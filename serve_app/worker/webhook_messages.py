"""What webhooks are told: the final envelope of a task, or of a batch of which all requests have ended."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from serve_app.backends.object_store import Results
from serve_app.batches.store import BatchStore
from serve_app.batches.views import batch_envelope, batch_view
from serve_app.generation.envelope import envelope_of
from serve_app.schemas.responses import Envelope
from serve_app.tasks.models import Delivery, Webhook
from serve_app.tasks.store import TaskStore


class Message(NamedTuple):
    """An envelope on its way to a webhook; `webhook_id` is the same in each attempt, `before` the last one's state."""

    webhook: Webhook
    owner: str
    webhook_id: str
    before: Delivery
    envelope: Envelope


class WebhookSource(Protocol):
    """Records with webhooks. Each method raises BrokerError while Redis is unavailable."""

    async def due_webhooks(
        self, count: int, of_owner: int, calls: Mapping[str, int], lease_s: float
    ) -> list[tuple[str, str]]:
        """As `DueWebhooks.lease`."""

    async def message(self, record_id: str) -> Message | None:
        """None where there is nothing to tell any more: it has expired, or goes on. Raises: StoreError."""

    async def note_delivery(self, record_id: str, delivery: Delivery, again_at: float | None) -> None:
        """Record an attempt; the next one is at `again_at` (unix seconds), None where there is none."""


class TaskWebhooks:
    """Those of tasks."""

    def __init__(self, tasks: TaskStore, results: Results) -> None:
        self._tasks = tasks
        self._results = results
        self.due_webhooks = tasks.due_webhooks
        self.note_delivery = tasks.note_delivery

    async def message(self, record_id: str) -> Message | None:
        """Its URLs are newly signed."""
        record = await self._tasks.get(record_id)
        if record is None or not record.finished:  # expired or requeued
            return None
        task, before = record.task, record.delivery
        if task.webhook is None or before is None:
            return None
        envelope = await envelope_of(record, self._results, task.webhook.base_url)
        return Message(task.webhook, task.owner, _webhook_id(record_id, record.finished_at), before, envelope)


class BatchWebhooks:
    """Those of batches."""

    def __init__(self, batches: BatchStore) -> None:
        self._batches = batches
        self.due_webhooks = batches.due_webhooks
        self.note_delivery = batches.note_delivery

    async def message(self, record_id: str) -> Message | None:
        """As `GET /api/v1/batches/{batch_id}` answers."""
        record = await self._batches.get(record_id)
        if record is None:
            return None
        batch, before = record.batch, record.delivery
        if batch.webhook is None or before is None:
            return None
        envelope = batch_envelope(batch_view(record, {}))
        return Message(batch.webhook, batch.owner, _webhook_id(record_id, record.finished_at), before, envelope)


def _webhook_id(record_id: str, finished_at: float | None) -> str:
    return f"{record_id}.{round((finished_at or 0) * 1000)}"

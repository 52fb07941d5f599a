"""A batch as its clients see it."""

from collections.abc import Mapping
from typing import Any

from serve_app.batches.models import BatchRecord
from serve_app.schemas.responses import BatchCounts, BatchView, Envelope, WebhookDelivery


def batch_view(record: BatchRecord, now: Mapping[str | None, int]) -> BatchView:
    """`now`: how many of its queued tasks have each status; None is that of those whose record has gone."""
    batch, delivery = record.batch, record.delivery
    return BatchView(
        batch_id=batch.batch_id,
        state=record.state,
        counts=BatchCounts(
            total=record.total,
            waiting=record.waiting + now.get("PENDING", 0),
            running=now.get("STARTED", 0),
            succeeded=record.succeeded + now.get("SUCCESS", 0),
            failed=record.failed + now.get("FAILED", 0) + now.get(None, 0),
            cancelled=record.cancelled + now.get("CANCELLED", 0),
        ),
        created_at=batch.created_at,
        deadline=batch.deadline,
        finished_at=record.finished_at,
        defaults=batch.defaults,
        ref_id=batch.ref_id,
        metadata=batch.metadata,
        webhook=None if delivery is None else WebhookDelivery(**delivery.model_dump()),
    )


def batch_envelope(view: BatchView, **more: Any) -> Envelope:
    """The answer about a batch, which its webhook gets too; `more` stands beside it in `output`."""
    return Envelope(output={"batch": view.model_dump(), **more}, status=view.status)

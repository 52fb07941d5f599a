"""Server-sent events of a task: its envelope after every change, the last one when it is finished.

An event's id is the revision of the record. Each event is complete, so a client that reconnects with its last id needs
only the newest event, or none if there is nothing newer.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from serve_app.errors import OverloadedError, RateLimitError, UnknownTaskError
from serve_app.generation.service import AvatarService
from serve_app.schemas.responses import Envelope
from serve_app.tasks.models import TaskRecord

MAX_LISTENERS = 64  # per ingress replica; each is one of its ongoing requests
MAX_OF_ONE_OWNER = 16  # listeners
HEARTBEAT_S = 10.0  # keeps connections open and updates the queue position
MAX_STREAM_S = 300.0  # then the client reconnects with its last id, so that a stopping replica need not wait long
RETRY_MS = 1000


async def follow(
    service: AvatarService, record: TaskRecord, base_url: str, last_seen: int | None
) -> AsyncIterator[str]:
    """The events of a task, except one that the client has already seen (`last_seen`: its revision)."""
    task = record.task
    ends = time.monotonic() + MAX_STREAM_S
    sent, finished = None, False
    yield f"retry: {RETRY_MS}\n\n"
    async with service.changes.listen(task.task_id, task.owner) as changed:
        while True:
            changed.clear()
            try:
                record = await service.find(task.task_id, task.owner)
                envelope = await service.envelope(record, base_url)
            except UnknownTaskError:  # its record has expired
                return
            except OverloadedError:  # Redis or the store does not answer; keep the client connected
                yield ": away\n\n"
            else:
                state, finished = (record.revision, envelope.output.get("progress")), record.finished
                is_new = sent != state and not (sent is None and last_seen == record.revision)
                yield encode(record, envelope) if is_new else ": still there\n\n"
                sent = state
            if finished or time.monotonic() >= ends:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), HEARTBEAT_S)


def encode(record: TaskRecord, envelope: Envelope) -> str:
    """One event: `progress`, or `finished` with the final envelope."""
    name = "finished" if record.finished else "progress"
    return f"id: {record.revision}\nevent: {name}\ndata: {envelope.model_dump_json()}\n\n"


def check_room(service: AvatarService, owner: str) -> None:
    """Raises: RateLimitError, OverloadedError where this owner, or all together, have the most listeners allowed."""
    if service.changes.listeners_of(owner) >= MAX_OF_ONE_OWNER:
        raise RateLimitError(f"This token follows {MAX_OF_ONE_OWNER} tasks already.", retry_after_s=5)
    if service.changes.listeners >= MAX_LISTENERS:
        raise OverloadedError(f"{MAX_LISTENERS} clients follow tasks already.", retry_after_s=5)


def last_event_id(header: str | None) -> int | None:
    """The revision in a `Last-Event-ID`; None if it is not a revision."""
    return int(header) if header and header.isascii() and header.isdigit() and len(header) < 10 else None

"""A task as server-sent events: its envelope at every change, the last one when it is finished.

An event's id is the revision of the record. Each event tells all, so who comes back with the id of the last one that
it saw needs the newest only, and nothing if there is none newer.
"""

import asyncio
import time
from collections.abc import AsyncIterator

from serve_app.errors import OverloadedError, RateLimitError, UnknownTaskError
from serve_app.generation.service import AvatarService
from serve_app.schemas.responses import Envelope
from serve_app.tasks.models import TaskRecord

MAX_LISTENERS = 64  # of one ingress replica; each counts as one of its ongoing requests
MAX_OF_ONE_OWNER = 16  # of them
HEARTBEAT_S = 10.0  # keeps connections open, and shows a new place in the queue
MAX_STREAM_S = 300.0  # then the client comes back with its last id: a replica that shall end has not long to wait
RETRY_MS = 1000


async def follow(service: AvatarService, record: TaskRecord, base_url: str, seen: int | None) -> AsyncIterator[str]:
    """The events of a task from its record on, but for the one that the client has seen already."""
    task = record.task
    ends = time.monotonic() + MAX_STREAM_S
    shown, finished = None, False
    yield f"retry: {RETRY_MS}\n\n"
    async with service.changes.listen(task.task_id, task.owner) as changed:
        while True:
            changed.clear()
            try:
                record = await service.find(task.task_id, task.owner)
                envelope = await service.envelope(record, base_url)
            except UnknownTaskError:  # its record has expired
                return
            except OverloadedError:  # the broker or the store is away; the client waits for them here
                yield ": away\n\n"
            else:
                state, finished = (record.revision, envelope.output.get("progress")), record.finished
                news = shown != state and not (shown is None and seen == record.revision)
                yield encode(record, envelope) if news else ": still there\n\n"
                shown = state
            if finished or time.monotonic() >= ends:
                return
            await _heard(changed)


async def _heard(changed: asyncio.Event) -> None:
    """Until something changed, or it is time for a heartbeat."""
    try:
        async with asyncio.timeout(HEARTBEAT_S):
            await changed.wait()
    except TimeoutError:
        return


def encode(record: TaskRecord, envelope: Envelope) -> str:
    """One event: `progress`, or `finished` with the final envelope."""
    name = "finished" if record.finished else "progress"
    return f"id: {record.revision}\nevent: {name}\ndata: {envelope.model_dump_json()}\n\n"


def check_room(service: AvatarService, owner: str) -> None:
    """Raises: RateLimitError, OverloadedError where as many listen already as may, of this owner or of all."""
    if service.changes.listeners_of(owner) >= MAX_OF_ONE_OWNER:
        raise RateLimitError(f"This token follows {MAX_OF_ONE_OWNER} tasks already.", retry_after_s=5)
    if service.changes.listeners >= MAX_LISTENERS:
        raise OverloadedError(f"{MAX_LISTENERS} clients follow tasks already.", retry_after_s=5)


def last_event_id(header: str | None) -> int | None:
    """The revision in a `Last-Event-ID`; None for what is not one of ours."""
    return int(header) if header and header.isascii() and header.isdigit() and len(header) < 10 else None

"""Server-sent events of a task: its envelope after every change, the last one when it is finished.

An event's id is the revision of the record. Each event is complete, so a client that reconnects with its last id needs
only the newest event, or none if there is nothing newer.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import NamedTuple

from serve_app.auth.access import Access
from serve_app.auth.tokens import Token
from serve_app.errors import OverloadedError, RateLimitError, UnknownTaskError
from serve_app.generation.service import AvatarService
from serve_app.schemas.responses import Envelope
from serve_app.tasks.models import Task, TaskRecord
from serve_app.tasks.previews import Previews

MAX_LISTENERS = 64  # per ingress replica; each is one of its ongoing requests
MAX_OF_ONE_OWNER = 16  # listeners
HEARTBEAT_S = 10.0  # keeps connections open and updates the queue position
MAX_STREAM_S = 300.0  # then the client reconnects with its last id, so that a stopping replica need not wait long
CHECK_TOKEN_S = 1.0  # revocations are pushed; this finds tokens that expire, and pushes that were lost
RETRY_MS = 1000


class Subscription(NamedTuple):
    """What a client follows with which token; `last_seen`: the revision that it has already seen."""

    record: TaskRecord
    token: Token
    base_url: str
    last_seen: int | None = None


async def follow(service: AvatarService, access: Access, subscription: Subscription) -> AsyncIterator[str]:
    """The events of a task, except one that the client has already seen; they end when its token is revoked."""
    record, token, base_url, last_seen = subscription
    task = record.task
    ends = time.monotonic() + MAX_STREAM_S
    sent, finished = None, False
    yield f"retry: {RETRY_MS}\n\n"
    async with (
        service.changes.listen(task.task_id, task.owner, token.id) as changed,
        _previews(service, task, changed) as previews,
    ):
        while True:
            changed.clear()
            if not await access.is_current(token):
                return
            try:
                record = await service.find(task.task_id, task.owner)
                envelope = await service.envelope(record, base_url, previews)
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
            await _next_change(changed, access, token)


def _previews(
    service: AvatarService, task: Task, changed: asyncio.Event
) -> AbstractAsyncContextManager[Previews | None]:
    """Those of a task whose request wants them."""
    return service.changes.previews.follow(task.task_id, changed) if task.request.previews else nullcontext()


async def _next_change(changed: asyncio.Event, access: Access, token: Token) -> None:
    """Wait until `changed` is set, the next heartbeat is due, or the token is no longer current."""
    heartbeat_at = time.monotonic() + HEARTBEAT_S
    while (left_s := heartbeat_at - time.monotonic()) > 0:
        with suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), min(left_s, CHECK_TOKEN_S))
            return
        if not await access.is_current(token):
            return


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

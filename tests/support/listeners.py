"""Clients that listen to the events of a task."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from serve_app.api.sse import Subscription, follow
from serve_app.auth.tokens import Token, TokenGrant, TokenStore
from serve_app.backends.secrets import sha256
from serve_app.tasks.models import TaskRecord
from tests.support.ingresses import Ingress
from tests.support.polling import eventually


class Listener:
    """One client of `/events`: the events that came, as (id, name, data); heartbeats only counted."""

    def __init__(self, ingress: Ingress, subscription: Subscription) -> None:
        self.events: list[tuple[int, str, dict[str, Any]]] = []
        self.heartbeats = 0
        self.reading = asyncio.create_task(self._read(ingress, subscription))

    async def _read(self, ingress: Ingress, subscription: Subscription) -> None:
        async for text in follow(ingress.service, ingress.access, subscription):
            fields = dict(line.split(": ", 1) for line in text.strip().splitlines())
            if "data" in fields:
                self.events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
            elif "" in fields:
                self.heartbeats += 1

    async def heard(self, count: int) -> None:
        await eventually(lambda: asyncio.sleep(0, len(self.events) >= count))

    async def leave(self) -> None:
        while not self.reading.done():  # a call to Redis may swallow the first
            self.reading.cancel()
            await asyncio.wait({self.reading}, timeout=0.5)


async def token_of_ann(ingress: Ingress, name: str = "a token", expires_at: float | None = None) -> Token:
    """A new token that sees the tasks of ann."""
    store = TokenStore(ingress.redis)
    token = await store.find(sha256(await store.add(TokenGrant(name, expires_at, owner="ann"))))
    assert token is not None
    return token


@asynccontextmanager
async def listening(
    ingress: Ingress, seen: int | None = None, count: int = 1, token: Token | None = None
) -> AsyncIterator[list[Listener]]:
    """Listeners to the task `a` with this token, or each time with another one."""
    record: TaskRecord = await ingress.service.find("a", "ann")
    token = token or await token_of_ann(ingress, str(uuid.uuid4()))
    listeners = [Listener(ingress, Subscription(record, token, "http://service", seen)) for _ in range(count)]
    try:
        yield listeners
    finally:
        for listener in listeners:
            await listener.leave()

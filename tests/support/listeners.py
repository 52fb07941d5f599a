"""Clients that listen to the events of a task."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from serve_app.api.sse import follow
from serve_app.tasks.models import TaskRecord
from tests.support.ingresses import Ingress
from tests.support.polling import eventually


class Listener:
    """One client of `/events`: the events that came, as (id, name, data); heartbeats only counted."""

    def __init__(self, ingress: Ingress, record: TaskRecord, seen: int | None = None) -> None:
        self.events: list[tuple[int, str, dict[str, Any]]] = []
        self.heartbeats = 0
        self.reading = asyncio.create_task(self._read(ingress, record, seen))

    async def _read(self, ingress: Ingress, record: TaskRecord, seen: int | None) -> None:
        async for text in follow(ingress.service, record, "http://service", seen):
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


@asynccontextmanager
async def listening(ingress: Ingress, seen: int | None = None, count: int = 1) -> AsyncIterator[list[Listener]]:
    record = await ingress.service.find("a", "ann")
    listeners = [Listener(ingress, record, seen) for _ in range(count)]
    try:
        yield listeners
    finally:
        for listener in listeners:
            await listener.leave()

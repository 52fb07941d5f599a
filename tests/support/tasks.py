"""Tasks, and the records and queues of several processes on one broker."""

import itertools
import time
from pathlib import Path
from typing import Any

from serve_app.backends.redis import BrokerSettings, connect
from serve_app.catalog.catalog import Catalog
from serve_app.schemas.requests import AvatarRequest, EffectiveRequest
from serve_app.tasks.keys import TaskKeys
from serve_app.tasks.models import StoredAvatar, Task, idempotency_digest
from serve_app.tasks.store import TaskStore
from serve_app.tasks.stream import GROUP, Message, TaskQueue

LEASE_S = 60.0  # longer than any pause of a busy machine: it ends when a test says so
AVATAR = StoredAvatar("a/0.png", "a/0.thumb.webp", 7, None, 0, 1, 0, 0)
PREFIXES = itertools.count()


class Office:
    """Stores and queues of several processes on one broker, under a prefix of their own."""

    def __init__(self, data_dir: Path, lease_s: float = LEASE_S) -> None:
        self.redis = connect(BrokerSettings(prefix=f"test{next(PREFIXES)}"), data_dir)
        self.keys = TaskKeys(self.redis.prefix)
        self.lease_s = lease_s
        self.ttl_s = 3600

    def store(self, holder: str) -> TaskStore:
        return TaskStore(self.redis, holder, self.ttl_s, lease_s=self.lease_s)

    def queue(self, holder: str) -> TaskQueue:
        return TaskQueue(self.redis, holder, lease_s=self.lease_s)

    async def run_out(self, message: Message, holder: str) -> None:
        """As when the worker that has a message touched neither it nor the lease for the length of a lease."""
        stream = self.keys.low_queue if message.priority == "low" else self.keys.queue
        await self.redis.delete(self.keys.lease(message.task_id))
        idle_ms = round(2000 * self.lease_s)
        await self.redis.xclaim(stream, GROUP, holder, 0, [message.message_id], idle=idle_ms, justid=True)


def task(task_id: str = "a", key: str | None = None, *, owner: str = "ann", **fields: Any) -> Task:
    request = AvatarRequest(**{"app_id": "face-avatar", "file_url": "https://example.org/me.jpg", **fields})
    app = Catalog.read(["embedded"])["face-avatar"]
    return Task(
        task_id=task_id,
        owner=owner,
        request=EffectiveRequest.fill(request, app, seed=7, deadline_s=60),
        submitted_at=time.time(),
        idempotency=None if key is None else idempotency_digest(owner, key),
    )


async def queued(store: TaskStore, name: str, **fields: Any) -> None:
    await store.create(task(name, **fields), "PENDING")
    assert await store.enqueue(name)

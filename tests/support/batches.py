"""Batches on one broker and one store: clients that fill them, a feeder, and a worker that draws nothing."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from serve_app.auth.tokens import Limits, OwnToken, TokenGrant, TokenStore
from serve_app.backends.object_store import FOLDER, result_key
from serve_app.batches.feeder import BatchFeeder
from serve_app.batches.models import BatchItem
from serve_app.batches.store import BatchStore
from serve_app.tasks.models import Claim, Outcome, Task
from serve_app.tasks.stream import TaskQueue
from serve_app.worker.retention import YOUNG_S, Retention
from tests.support.fake_service import picture
from tests.support.ingresses import Ingress
from tests.support.tasks import AVATAR

BATCHES = "/api/v1/batches"
DEFAULTS = {"app_id": "face-avatar", "file_url": "https://example.org/me.jpg"}
NDJSON = {"Content-Type": "application/x-ndjson"}


class Press:
    """What draws the batches of an ingress: a feeder, and a worker that says how each task ends."""

    def __init__(self, ingress: Ingress, data_dir: Path) -> None:
        self.ingress = ingress
        self.settings = ingress.service.settings
        self.store = BatchStore(ingress.redis, self.settings.batches, self.settings.result_ttl_s)
        self.own = OwnToken(data_dir)
        self.queue = TaskQueue(ingress.redis, "worker")
        self.drawn: Counter[str] = Counter()  # by `ref_id`
        self.retention = Retention(ingress.redis, ingress.tasks, ingress.results, 60)
        self.feeder = self.new_feeder()

    def new_feeder(self) -> BatchFeeder:
        service = self.ingress.service
        return BatchFeeder(self.settings, service.container, service.execution, self.store, self.own)

    async def feed(self) -> None:
        await self.feeder.run_once()

    async def draw(self, most: int = 1000) -> list[str]:
        """Take and finish up to so many tasks; their ids."""
        await self.queue.take(0, 0.01)
        messages = await self.queue.take(most, 0.01) or await self.queue.take(most, 0.01)
        for message in messages:
            if await self.ingress.tasks.claim(message.task_id) is Claim.ACQUIRED:
                record = await self.ingress.tasks.get(message.task_id)
                assert record is not None
                await self.finish(record.task)
            await self.queue.remove(message)
        return [message.task_id for message in messages]

    async def finish(self, task: Task) -> None:
        self.drawn[str(task.request.ref_id)] += 1
        key = result_key(task.task_id, 0, "png")
        await self.ingress.results.put(key, picture(task.request.seed))
        avatar = replace(AVATAR, key=key, thumbnail_key=key, seed=task.request.seed)
        assert await self.ingress.tasks.finish(task, "SUCCESS", Outcome(avatars=(avatar,)))

    async def run(self, rounds: int = 20) -> None:
        """Feed and draw until nothing is left to do."""
        for _ in range(rounds):
            await self.feed()
            if not await self.draw():
                await self.feed()
                return

    def files(self) -> list[Path]:
        """What the store has of photos and of requests that are not queued."""
        return [*(self.settings.data_dir / FOLDER / "photos").glob("*")]

    async def waiting(self, batch_id: str) -> list[BatchItem]:
        return await self.store.waiting(batch_id, 1000)

    async def sweep(self, old: Iterable[Path] = ()) -> None:
        """Retention, for which these files are old."""
        for path in old:
            os.utime(path, (time.time() - YOUNG_S - 1,) * 2)
        await self.ingress.redis.delete(self.ingress.redis.key("sweeper", "photos"))
        await self.retention.run_once()

    async def token(self, name: str, **limits: Any) -> dict[str, str]:
        """The header of a new token."""
        secret = await TokenStore(self.ingress.redis).add(TokenGrant(name, limits=Limits(**limits)))
        return {"Authorization": f"Bearer {secret}"}


def lines(names: Iterable[str], **fields: Any) -> bytes:
    """A chunk with a request of each name."""
    return b"".join(
        json.dumps({"custom_id": name, "ref_id": name, **DEFAULTS, **fields}).encode() + b"\n" for name in names
    )


async def opened(client: httpx.AsyncClient, **fields: Any) -> str:
    answer = await client.post(BATCHES, json=fields)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["output"]["batch"]["batch_id"])


async def added(client: httpx.AsyncClient, batch_id: str, body: bytes, **headers: str) -> httpx.Response:
    return await client.post(f"{BATCHES}/{batch_id}/requests", content=body, headers=NDJSON | headers)


async def view(client: httpx.AsyncClient, batch_id: str) -> dict[str, Any]:
    answer = await client.get(f"{BATCHES}/{batch_id}")
    assert answer.status_code == 200, answer.text
    batch: dict[str, Any] = answer.json()["output"]["batch"]
    return batch


async def results(client: httpx.AsyncClient, batch_id: str, after: int = 0) -> list[dict[str, Any]]:
    answer = await client.get(f"{BATCHES}/{batch_id}/results", params={"after": after})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == NDJSON["Content-Type"]
    return [json.loads(line) for line in answer.content.splitlines()]

"""Ingresses without Serve around them, several on one broker."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from deployments.types import Photo
from serve_app.auth.access import Access
from serve_app.auth.owner_use import OwnerUse
from serve_app.auth.tokens import OwnToken
from serve_app.auth.usage import UsageBook
from serve_app.backends.object_store import Results, StoreSettings
from serve_app.backends.redis import connect, own_url
from serve_app.catalog.catalog import Catalog
from serve_app.generation.container import Container
from serve_app.generation.service import AvatarService
from serve_app.generation.validation import Caller
from serve_app.photos.source import PhotoSource
from serve_app.schemas.requests import AvatarRequest
from serve_app.settings import Settings
from serve_app.tasks.keys import TaskKeys
from serve_app.tasks.models import Task, TaskRecord
from serve_app.tasks.store import TaskStore
from tests.support.pipelines import PIXELS, Pipeline

LEASE_S = 60.0  # longer than any pause of a busy machine: it ends when a test says so
KEYED = Caller("ann", "key")


class Ingress:
    """One ingress: its service, with a pipeline that gives prepared outcomes and photos that come through a gate."""

    def __init__(self, broker: Path, data_dir: Path, name: str, *outcomes: Any, **changes: Any) -> None:
        settings = Settings(data_dir=data_dir, **changes)
        redis = connect(settings.broker, broker)
        use = OwnerUse(redis)
        self.keys = TaskKeys(redis.prefix)
        self.results = Results.open(StoreSettings(), data_dir=data_dir, signing_key=b"key", ttl_s=60)
        self.tasks = TaskStore(redis, name, settings.result_ttl_s, LEASE_S)
        self.pipeline = Pipeline(self.results, *outcomes)
        catalog = Catalog.read(settings.catalogs)
        self.usage = usage = UsageBook(redis, settings.tokens.usage_days)
        parts = Container(redis, name, catalog, self.results, self.tasks, b"key", self.pipeline, use, usage)  # type: ignore[arg-type]
        self.service = AvatarService(settings, parts)
        self.access = Access(redis, settings.tokens, usage, use, OwnToken(data_dir))
        self.gate = asyncio.Event()
        self.gate.set()
        self.photo_owners: list[str] = []  # for whom photos were fetched
        self.service._intake.photos = self._photos  # type: ignore[method-assign]
        self.redis = redis

    async def _photos(self, sources: Sequence[PhotoSource], owner: str) -> list[Photo]:
        self.photo_owners.append(owner)
        await self.gate.wait()
        return [Photo(PIXELS) for _ in sources]

    def send(self, caller: Caller = KEYED, **fields: Any) -> "Sent":
        request = AvatarRequest(**{"app_id": "face-avatar", "file_url": "https://example.org/me.jpg", **fields})
        task = self.service.validator.task(request, caller)
        return Sent(task, asyncio.create_task(self.service.creation.create(task, request, caller)))

    async def die(self) -> None:
        """As after kill -9, for others: nothing is renewed, nothing recorded any more. Its leases have run out."""
        leases = self.service._execution._leases
        await self.service._execution.close()
        await asyncio.gather(leases._keeper or do_nothing(), return_exceptions=True)
        self.tasks.finish = do_nothing  # type: ignore[method-assign,assignment]
        await self.redis.delete(*map(self.keys.lease, leases._scopes))


async def do_nothing(*_: object, **__: object) -> bool:
    return True


class Sent:
    """A request on its way."""

    def __init__(self, task: Task, answer: "asyncio.Task[TaskRecord]") -> None:
        self.task = task
        self.answer = answer

    async def leave(self) -> None:
        self.answer.cancel()
        await asyncio.gather(self.answer, return_exceptions=True)


ScenarioRunner = Callable[[Callable[[Any], Awaitable[None]]], None]


def scenario_runner(broker: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> ScenarioRunner:
    """Runs a scenario that gets a maker of ingresses on a broker, which is emptied first."""
    monkeypatch.setattr("serve_app.tasks.leases.POLL_S", 0.05)
    monkeypatch.setattr("serve_app.tasks.leases.RENEW_S", 0.25)
    monkeypatch.setattr("serve_app.generation.creation.REPEAT_POLL_S", 0.05)

    @asynccontextmanager
    async def ingresses() -> AsyncIterator[Callable[..., Ingress]]:
        made: list[Ingress] = []

        def make(*outcomes: Any, **settings: Any) -> Ingress:
            made.append(Ingress(broker, data_dir, f"ingress{len(made)}", *outcomes, **settings))
            return made[-1]

        yield make
        for ingress in made:
            ingress.gate.set()
            ingress.pipeline.gate.set()
            await ingress.service.close()

    def run(scenario: Callable[[Any], Awaitable[None]]) -> None:
        async def within() -> None:
            async with asyncio.timeout(50), ingresses() as make:  # less than a lease: nobody may have waited for one
                await scenario(make)

        with Redis.from_url(own_url(broker)) as redis:
            redis.flushall()
        asyncio.run(within())

    return run

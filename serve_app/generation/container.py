"""The dependencies that the ingress and the worker share."""

import secrets
import uuid
from dataclasses import dataclass
from typing import Any

import ray
from ray.serve.handle import DeploymentHandle

from serve_app.auth.image_quota import ImageQuota
from serve_app.auth.owner_use import OwnerUse
from serve_app.auth.usage import UsageBook
from serve_app.backends.object_store import Results
from serve_app.backends.redis import Redis, connect, ensure_shared_secret
from serve_app.backends.secrets import signing_key
from serve_app.catalog.catalog import Catalog
from serve_app.generation.execution import TaskExecution
from serve_app.generation.settings import GenerationSettings
from serve_app.pipeline.gc import ReferenceCollector
from serve_app.pipeline.pipeline import AvatarPipeline
from serve_app.tasks.store import TaskStore
from serve_app.tasks.stream import TaskQueue


@dataclass(frozen=True, slots=True)
class Container:
    """The dependencies of one replica; `lease_owner` is its name in leases and in the queue."""

    redis: Redis
    lease_owner: str
    catalog: Catalog
    results: Results
    tasks: TaskStore
    signing_key: bytes
    pipeline: AvatarPipeline
    use: OwnerUse
    usage: UsageBook

    @classmethod
    def of(
        cls,
        settings: GenerationSettings,
        embedder: DeploymentHandle[Any],
        generator: DeploymentHandle[Any],
        remover: DeploymentHandle[Any],
    ) -> "Container":
        """Raises: ValueError where the settings contradict each other, or do not suit the cluster."""
        check_reach(settings, nodes=sum(node["Alive"] for node in ray.nodes()))
        catalog = Catalog.read(settings.catalogs)
        catalog.check_models(settings.generator.models)
        catalog.check_licences(settings.license_mode)
        redis = connect(settings.broker, settings.data_dir)
        lease_owner = uuid.uuid4().hex
        tasks = TaskStore(redis, lease_owner, settings.result_ttl_s, dead_ttl_s=settings.queue.dead_ttl_s)
        key = _signing_key(settings)
        results = Results.open(
            settings.store,
            data_dir=settings.data_dir,
            signing_key=key,
            ttl_s=settings.result_ttl_s,
        )
        pipeline = AvatarPipeline(embedder, generator, remover, results)
        ReferenceCollector.freeze_current()
        usage = UsageBook(redis, settings.tokens.usage_days)
        return cls(redis, lease_owner, catalog, results, tasks, key, pipeline, OwnerUse(redis), usage)

    def execution(self, queue: TaskQueue | None = None) -> TaskExecution:
        """What runs tasks here; `queue` is that of a worker."""
        parts = self.catalog, self.pipeline, self.tasks, self.results, self.use, self.usage
        return TaskExecution(*parts, queue, ImageQuota(self.redis))

    async def close(self) -> None:
        """Write what was counted, and disconnect."""
        await self.usage.close()
        await self.use.close()
        await self.redis.aclose()


def check_reach(settings: GenerationSettings, nodes: int) -> None:
    """Raises: ValueError where a cluster of several nodes has its store or its broker on one of them."""
    if nodes <= 1:
        return
    if not settings.store.is_shared:
        raise ValueError(f"the cluster has {nodes} nodes: set store.url to an object store that all of them reach")
    if settings.broker.url is None:
        raise ValueError(f"the cluster has {nodes} nodes: set broker.url to a Redis or Valkey that all of them reach")


def _signing_key(settings: GenerationSettings) -> bytes:
    """32 bytes, the same for all replicas: from the shared broker if there is one, else from the data directory."""
    if settings.broker.url is None:
        return signing_key(settings.data_dir)
    return bytes.fromhex(ensure_shared_secret(settings.broker, "signing-key", lambda: secrets.token_hex(32)))

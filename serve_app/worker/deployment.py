"""The worker as a Serve deployment, with its periodic tasks."""

import asyncio
import contextlib
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve_app.auth.tokens import OwnToken
from serve_app.batches.feeder import BatchFeeder
from serve_app.batches.store import BatchStore
from serve_app.errors import BrokerError
from serve_app.generation.container import Container
from serve_app.policies import TASKS
from serve_app.provenance.signing import Provenance
from serve_app.tasks.stream import TaskQueue
from serve_app.worker.batches import Batches
from serve_app.worker.certificate_metrics import CertificateMetrics
from serve_app.worker.consumer import TaskWorker
from serve_app.worker.late_starts import LateStarts
from serve_app.worker.periodic import PeriodicTasks
from serve_app.worker.queue_metrics import QueueMetrics
from serve_app.worker.recovery import Recovery
from serve_app.worker.retention import Retention
from serve_app.worker.settings import AvatarWorkerSettings
from serve_app.worker.webhook_messages import BatchWebhooks, TaskWebhooks
from serve_app.worker.webhooks import WebhookSender

CLOSE_S = 4.0  # for webhooks that are being called; after that another worker calls them again


class AvatarWorker:
    """Awaits other stages and computes nothing, so one replica runs many tasks."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        settings: AvatarWorkerSettings,
        embedder: DeploymentHandle[Any],
        generator: DeploymentHandle[Any],
        remover: DeploymentHandle[Any],
    ) -> None:
        container = Container.of(settings, embedder, generator, remover)
        self._container = container
        self._queue = queue = TaskQueue(container.redis, container.lease_owner)
        self._grace_s = settings.worker.grace_s
        execution = container.execution(queue)
        self._worker = TaskWorker(container.tasks, queue, execution, container.results, settings.worker.concurrency)
        batches = BatchStore(container.redis, settings.batches, settings.result_ttl_s)
        sources = BatchWebhooks(batches), TaskWebhooks(container.tasks, container.results)
        self._webhooks = WebhookSender(sources, container.signing_key, settings.fetch)
        own = OwnToken(settings.data_dir) if settings.broker.url is None else None
        periodic = (
            Batches(container.redis, BatchFeeder(settings, container, execution, batches, own)),
            Recovery(container.redis, container.tasks, queue, container.results, settings.queue.dead_ttl_s),
            Retention(container.redis, container.tasks, container.results, settings.result_ttl_s),
            QueueMetrics(container.redis),
            LateStarts(container.redis, container.tasks, self._worker),
            CertificateMetrics(Provenance(settings.provenance, settings.broker, settings.data_dir)),
            self._webhooks,
        )
        self._periodic = PeriodicTasks()
        running = (self._worker.run(), *(self._periodic.run(task) for task in periodic))
        self._loops = [asyncio.create_task(part) for part in running]

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """For `TasksPolicy`; empty while the broker is unavailable."""
        with contextlib.suppress(BrokerError):
            return {TASKS: await self._queue.length()}
        return {}

    async def check_health(self) -> None:
        """Serve calls it periodically and replaces a replica that keeps failing.

        Raises: RuntimeError once the worker's loop or one of its periodic tasks has ended.
        """
        for loop in self._loops:
            if loop.done():
                raise RuntimeError("the worker has stopped") from loop.exception()

    async def __del__(self) -> None:
        if hasattr(self, "_loops"):  # the constructor may have failed
            self._periodic.close()
            await self._worker.close(self._grace_s)
            await asyncio.wait({asyncio.create_task(self._finish())}, timeout=CLOSE_S)
            await self._container.close()

    async def _finish(self) -> None:
        """Wait for everything that is still running."""
        await asyncio.wait(self._loops)
        await self._webhooks.wait()

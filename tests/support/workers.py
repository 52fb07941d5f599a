"""A worker for an ingress without Serve around it: takes what that has queued."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from serve_app.catalog.catalog import Catalog
from serve_app.generation.execution import TaskExecution
from serve_app.settings import Settings
from serve_app.tasks.stream import TaskQueue
from serve_app.worker.consumer import TaskWorker
from tests.support.ingresses import Ingress


@asynccontextmanager
async def working(ingress: Ingress) -> AsyncIterator[None]:
    """Tasks are done in the pipeline of the ingress while the block runs."""
    queue = TaskQueue(ingress.redis, "worker")
    catalog = Catalog.read(Settings().catalogs)
    tasks, results, use = ingress.tasks, ingress.results, ingress.access.use
    execution = TaskExecution(catalog, ingress.pipeline, tasks, results, use, ingress.usage, queue)  # type: ignore[arg-type]
    worker = TaskWorker(tasks, queue, execution, results, concurrency=2)
    running = asyncio.create_task(worker.run())
    yield
    await worker.close(grace_s=5)
    await running

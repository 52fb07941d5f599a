"""The two sides of the queue benchmark: each enqueues tasks that only sleep, and deploys one worker for them.

The workers keep a journal: when each run of a task began and ended, and in which process.
"""

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from celery import current_task  # type: ignore[import-untyped]
from ray import serve
from ray.serve.schema import CeleryAdapterConfig, TaskProcessorConfig
from ray.serve.task_consumer import instantiate_adapter_from_config, task_consumer, task_handler
from redis import Redis as SyncRedis

from serve_app.auth.owner_use import OwnerUse
from serve_app.auth.usage import UsageBook
from serve_app.backends.object_store import Results, StoreSettings
from serve_app.backends.redis import BrokerSettings, Redis, connect
from serve_app.generation.execution import TaskExecution
from serve_app.schemas.requests import EffectiveRequest
from serve_app.tasks.models import Outcome, StoredAvatar, Task
from serve_app.tasks.store import TaskStore
from serve_app.tasks.stream import TaskQueue
from serve_app.worker.consumer import TaskWorker

APP = "bench"
GRACE_S = 10  # for running tasks at shutdown, as hard-coded in the adapter
HEARTBEAT_S = 1.5
REPLICA = {"graceful_shutdown_timeout_s": 20, "health_check_period_s": 1, "ray_actor_options": {"num_cpus": 0}}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a task in the process `pid`; unix seconds, `ended` is None unless it completed."""

    task_id: str
    pid: int
    started: float
    ended: float | None


class Journal:
    """The journal of the workers: two Valkey hashes with the start and end times of each run."""

    def __init__(self, url: str) -> None:
        self._redis = SyncRedis.from_url(url, decode_responses=True)

    @contextmanager
    def run(self, task_id: str) -> Iterator[None]:
        """Records the start, and the end unless the block raises."""
        key = f"{task_id} {os.getpid()} {uuid4().hex}"
        self._redis.hset("started", key, time.time())
        yield
        self._redis.hset("ended", key, time.time())

    def runs(self, task_ids: Sequence[str]) -> list[Run]:
        """Earliest first."""
        started, ended = (cast(dict[str, str], self._redis.hgetall(name)) for name in ("started", "ended"))
        runs = []
        for key, at in started.items():
            task_id, pid, _ = key.split()
            if task_id in task_ids:
                runs.append(Run(task_id, int(pid), float(at), float(ended[key]) if key in ended else None))
        return sorted(runs, key=lambda run: run.started)


class CelerySide:
    """The adapter with its best settings: prefetch of one, started tasks tracked, no retries.

    With a heartbeat, a running task keeps its message from being restored: our own code on an internal key of kombu.
    """

    def __init__(self, name: str, url: str, journal_url: str, transport: dict[str, Any], *, heartbeat: bool) -> None:
        self.name = name
        self._arguments = journal_url, url if heartbeat else None
        self._config = TaskProcessorConfig(
            queue_name="bench",
            adapter_config=CeleryAdapterConfig(
                broker_url=url,
                backend_url=url,
                app_custom_config={"worker_prefetch_multiplier": 1, "task_track_started": True},
                task_custom_config={"autoretry_for": ()},
                broker_transport_options=transport,
            ),
        )
        self._adapter = instantiate_adapter_from_config(self._config)

    def deployment(self, concurrency: int) -> serve.Application:
        """One replica whose worker runs up to `concurrency` tasks at once."""
        consumer = task_consumer(task_processor_config=self._config)(CeleryWaiter)
        return serve.deployment(consumer, max_ongoing_requests=concurrency, **REPLICA).bind(*self._arguments)

    def enqueue(self, wait_s: float) -> str:
        """The id of a queued task that sleeps for `wait_s` seconds."""
        return str(self._adapter.enqueue_task_sync("wait", args=[wait_s]).id)

    def cancel(self, task_id: str) -> None:
        """The adapter revokes the task without ending it where it runs already."""
        self._adapter.cancel_task_sync(task_id)

    def status(self, task_id: str) -> str:
        """The task's status as the adapter tells it, in Celery's words."""
        return str(self._adapter.get_task_status_sync(task_id).status)


class CeleryWaiter:
    """The consumer that `task_consumer` wraps; without `heartbeat_url` no message is kept from being restored."""

    def __init__(self, journal_url: str, heartbeat_url: str | None) -> None:
        self._journal = Journal(journal_url)
        self._heartbeat = SyncRedis.from_url(heartbeat_url) if heartbeat_url else None

    @task_handler(name="wait")  # type: ignore[untyped-decorator]
    def wait(self, wait_s: float) -> None:
        """The handler of a task: sleeps for `wait_s` seconds, on a thread of its own.

        With a heartbeat it renews its message in kombu's index of unacknowledged ones every `HEARTBEAT_S`.
        """
        ends = time.monotonic() + wait_s
        with self._journal.run(current_task.request.id):
            while (left_s := ends - time.monotonic()) > 0:
                time.sleep(min(left_s, HEARTBEAT_S))
                if self._heartbeat is not None:
                    tag = current_task.request.properties["delivery_tag"]
                    self._heartbeat.zadd("unacked_index", {tag: time.time()}, xx=True)


class StreamsSide:
    """The project's own records, queue and worker; only the execution of its tasks waits instead of drawing."""

    name = "Streams"

    def __init__(self, url: str, journal_url: str, folder: Path) -> None:
        self._arguments = url, journal_url, folder
        self._redis = connect(BrokerSettings.model_validate({"url": url, "prefix": APP}), folder)
        self._tasks = TaskStore(self._redis, "client", ttl_s=600)
        self._runner = asyncio.Runner()  # one event loop for the client's connections

    def deployment(self, concurrency: int) -> serve.Application:
        """One replica whose worker runs up to `concurrency` tasks at once."""
        return serve.deployment(StreamsWaiter, **REPLICA).bind(*self._arguments, concurrency)

    def enqueue(self, wait_s: float) -> str:
        """The id of a recorded and queued task that sleeps for `wait_s` seconds."""
        return self._runner.run(self._enqueue(waiting_task(wait_s)))

    def cancel(self, task_id: str) -> None:
        """Cancels the record of an unfinished task; the worker that runs it notices."""
        self._runner.run(self._tasks.cancel(task_id))

    def status(self, task_id: str) -> str:
        """The status in the task's record; `unknown` where there is none."""
        record = self._runner.run(self._tasks.get(task_id))
        return record.status if record else "unknown"

    async def _enqueue(self, task: Task) -> str:
        await self._tasks.create(task, "PENDING")
        await self._tasks.enqueue(task.task_id)
        return task.task_id


def waiting_task(wait_s: float) -> Task:
    """A new task whose prompt is `wait_s`, which `WaitingExecution` reads."""
    request = EffectiveRequest(
        app_id=APP, file_url="", prompt=str(wait_s), gender="", negative_prompt="", batch=1, height=256, width=256,
        num_inference_steps=1, guidance_scale=1, remove_background=False, bg_color=None, celery=True, seed=0,
        output_format="png", ref_id=None, deadline_s=600,
    )  # fmt: skip
    return Task(task_id=str(uuid4()), owner="", request=request, submitted_at=time.time())


class WaitingExecution(TaskExecution):
    """Waits for as many seconds as the prompt says."""

    def __init__(self, journal_url: str, redis: Redis, tasks: TaskStore, results: Results, queue: TaskQueue) -> None:
        unused: Any = None  # there is nothing to draw
        super().__init__(unused, unused, tasks, results, OwnerUse(redis), UsageBook(redis, days=1), queue)
        self._journal = Journal(journal_url)

    async def run(self, task: Task, *_photo: object, **_options: object) -> Outcome:
        """Sleeps on the event loop, then returns one avatar without files. The photo is never fetched."""
        with self._journal.run(task.task_id):
            await asyncio.sleep(float(task.request.prompt))
        return Outcome(avatars=(StoredAvatar("", "", 0, None, 0, 0, 0, 0),))


class StreamsWaiter:
    """A replica that runs `TaskWorker` until Serve stops it; tasks get `GRACE_S` to end then."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, url: str, journal_url: str, folder: Path, concurrency: int
    ) -> None:
        redis, holder = connect(BrokerSettings.model_validate({"url": url, "prefix": APP}), folder), uuid4().hex
        results = Results.open(StoreSettings(), data_dir=folder, signing_key=b"", ttl_s=600)
        tasks, queue = TaskStore(redis, holder, ttl_s=600), TaskQueue(redis, holder)
        execution = WaitingExecution(journal_url, redis, tasks, results, queue)
        self._worker = TaskWorker(tasks, queue, execution, results, concurrency)
        self._loop = asyncio.create_task(self._worker.run())

    async def __del__(self) -> None:
        await self._worker.close(GRACE_S)
        await self._loop


Side = CelerySide | StreamsSide

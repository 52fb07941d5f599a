"""The worker: takes queued tasks and runs them through the same pipeline as the ingress."""

import asyncio
import itertools
import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.errors import AvatarError
from deployments.types import Photo
from serve_app.errors import BrokerError, OverloadedError, StoreError
from serve_app.leases import Leases, TaskLostError
from serve_app.parts import Parts
from serve_app.photo import unpack_photo
from serve_app.pipeline import STAGE_LOST
from serve_app.queue import Message, TaskQueue
from serve_app.runner import TaskRunner, failed, made
from serve_app.schemas import Status
from serve_app.settings import Settings
from serve_app.storage import Results, photo_key
from serve_app.tasks import Claim, Outcome, Task, TaskRecord, TaskStore, task_files

TAKE_WAIT_S = 0.5
MAX_ATTEMPTS = 3  # a task whose workers died that often is not tried again
PAUSES_S = (1, 2, 5, 10)  # between attempts while a stage, the store or the broker takes nothing; the last one for ever

log = logging.getLogger(__name__)


class TaskWorker:
    """Runs up to `concurrency` tasks at once; nothing that it took is lost when it, or the broker, dies."""

    def __init__(
        self, tasks: TaskStore, queue: TaskQueue, runner: TaskRunner, results: Results, concurrency: int
    ) -> None:
        self._tasks = tasks
        self._queue = queue
        self._leases = Leases(tasks, queue)
        self._runner = runner
        self._results = results
        self._concurrency = concurrency
        self._running: set[asyncio.Task[None]] = set()
        self._closing = False
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Take and start tasks until `close`."""
        try:
            while not self._closing:
                await self._start_next()
        finally:
            self._stopped.set()

    async def close(self, grace_s: float) -> None:
        """Take nothing more, wait for what runs, and hand back to the queue what is not done in time."""
        self._closing = True
        await self._stopped.wait()  # what its last `take` brings is ours too, and what we hand back is not
        if self._running:
            await asyncio.wait(self._running, timeout=grace_s)
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._leases.close()

    async def _start_next(self) -> None:
        free = self._concurrency - len(self._running)
        if not free:
            await asyncio.wait(self._running, timeout=TAKE_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
            return
        try:
            messages = await self._queue.take(free, TAKE_WAIT_S)
        except BrokerError as error:
            log.warning("no tasks are taken: %s", error.__cause__)
            await asyncio.sleep(TAKE_WAIT_S)
            return
        for message in messages:
            running = asyncio.create_task(self._work(message))
            self._running.add(running)
            running.add_done_callback(self._running.discard)

    async def _work(self, message: Message) -> None:
        """One message, to its end. Where the broker fails on the way, the message stays, and comes again."""
        try:
            if await self._is_over(message):
                await self._queue.remove(message.message_id)
        except BrokerError as error:
            log.warning("task %s will come again: %s", message.task_id, error.__cause__)
        except asyncio.CancelledError:  # this worker ends
            if await self._tasks.hand_back(message.task_id):
                await self._queue.remove(message.message_id)
            raise
        except Exception:
            log.exception("task %s: the worker has a bug", message.task_id)

    async def _is_over(self, message: Message) -> bool:
        """Do what the message says, if nobody else does. False while somebody else works on its task."""
        if self._leases.holds(message.task_id):  # by us: the broker was away, and its message came again
            return False
        claim = await self._tasks.claim(message.task_id)
        record = await self._tasks.get(message.task_id)
        if claim is Claim.OURS and record is not None:
            return await self._perform(record, message)
        if claim is Claim.OVER:  # its worker may have died before it deleted the photo
            await self._delete([photo_key(message.task_id)])
        return claim is not Claim.HELD

    async def _perform(self, record: TaskRecord, message: Message) -> bool:
        """False where somebody else works on the task now, and needs its message should they die."""
        task = record.task
        try:
            async with self._leases.hold(task.task_id, message.message_id):
                status, outcome = await self._outcome(record)
                await self._settle(task, status, outcome)
            return True
        except TaskLostError:
            log.info("task %s was cancelled, or is in other hands", task.task_id)
            now = await self._tasks.get(task.task_id)
            if now is None or now.status == "CANCELLED":
                await self._delete(task_files(task))
            elif now.finished:
                await self._delete([photo_key(task.task_id)])
            return now is None or now.finished

    async def _outcome(self, record: TaskRecord) -> tuple[Status, Outcome]:
        task = record.task
        if record.attempts > MAX_ATTEMPTS:
            log.error("task %s has ended %d processes: it is given up", task.task_id, MAX_ATTEMPTS)
            return "FAILED", failed(RuntimeError())
        try:
            return "SUCCESS", await self._until_made(task)
        except AvatarError as error:
            return "FAILED", failed(error)
        except Exception as error:
            log.exception("task %s failed", task.task_id)
            return "FAILED", failed(error)

    async def _until_made(self, task: Task) -> Outcome:
        """Run, again and again while the reason is not the task's own; its deadline ends that."""
        fetch_s = 0.0

        async def photo() -> Photo:
            nonlocal fetch_s
            started = time.perf_counter()
            packed = await self._results.get(photo_key(task.task_id))
            fetched = await asyncio.to_thread(unpack_photo, packed)
            fetch_s = time.perf_counter() - started
            return fetched

        for pause_s in _pauses_s():
            try:
                return made(await self._runner.run(task, photo), fetch_s)
            except (OverloadedError, *STAGE_LOST) as error:
                log.warning("task %s: %s; again in %g s", task.task_id, type(error).__name__, pause_s)
                await asyncio.sleep(pause_s)
        raise AssertionError("the pauses do not end")

    async def _settle(self, task: Task, status: Status, outcome: Outcome) -> None:
        """Record the outcome, however long the broker is away; then the photo is not needed any more."""
        for pause_s in _pauses_s():
            try:
                if not await self._tasks.finish(task, status, outcome):
                    raise TaskLostError("The task was cancelled.")
                break
            except BrokerError as error:
                log.warning("task %s: its outcome is not recorded yet: %s", task.task_id, error.__cause__)
                await asyncio.sleep(pause_s)
        await self._delete([photo_key(task.task_id)])

    async def _delete(self, keys: Iterable[str]) -> None:
        try:
            await self._results.delete(keys)
        except StoreError as error:
            log.warning("a file of a task could not be deleted: %s", error)


def _pauses_s() -> Iterator[float]:
    return itertools.chain(PAUSES_S, itertools.repeat(PAUSES_S[-1]))


class AvatarWorker:
    """The worker as a Serve deployment. It awaits other stages and computes nothing, so one replica does a lot."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        settings: Settings,
        embedder: DeploymentHandle[Any],
        generator: DeploymentHandle[Any],
        remover: DeploymentHandle[Any],
    ) -> None:
        parts = Parts.of(settings, embedder, generator, remover)
        queue = TaskQueue(parts.redis, parts.keys, parts.holder)
        self._redis = parts.redis
        self._grace_s = settings.worker.grace_s
        self._worker = TaskWorker(parts.tasks, queue, parts.runner, parts.results, settings.worker.concurrency)
        self._loop = asyncio.create_task(self._worker.run())

    async def check_health(self) -> None:
        if self._loop.done():
            raise RuntimeError("the worker has stopped taking tasks") from self._loop.exception()

    async def __del__(self) -> None:
        if hasattr(self, "_loop"):  # the constructor may have failed
            await self._worker.close(self._grace_s)
            await self._loop
            await self._redis.aclose()

"""The worker: takes queued tasks and runs them through the same pipeline as the ingress."""

import asyncio
import itertools
import logging
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from deployments.errors import AvatarError
from deployments.types import Photo
from serve_app.auth.usage import UsageBook
from serve_app.backends.object_store import Results, photo_key
from serve_app.errors import BrokerError, GivenUpError, OverloadedError, StoreError
from serve_app.generation.executor import TaskExecutor, failure_outcome, success_outcome
from serve_app.photos.decode import unpack_photo
from serve_app.pipeline.calls import STAGE_LOST
from serve_app.schemas.responses import Status
from serve_app.tasks.leases import Leases, TaskLostError
from serve_app.tasks.metrics import TaskMetrics
from serve_app.tasks.models import Claim, Outcome, Task, TaskRecord, task_files
from serve_app.tasks.store import TaskStore
from serve_app.tasks.stream import Message, TaskQueue

TAKE_WAIT_S = 0.5
MAX_DEATHS = 3  # a task under which so many processes died is not tried again
ISOLATE_AFTER_DEATHS = (
    2  # after so many of them it runs beside no other such task: one that is innocent lives through that
)
PAUSES_S = (1, 2, 5, 10)  # between attempts while a stage, the store or the broker takes nothing; the last one for ever

log = logging.getLogger(__name__)


class Ending(NamedTuple):
    """How a task ends; a `dead` one was given up."""

    status: Status
    outcome: Outcome
    dead: bool = False


class TaskWorker:
    """Runs up to `concurrency` tasks at once; nothing that it took is lost when it, or the broker, dies.

    What a dead worker left has waited for its turn once, and comes on top of those: as many again at most.
    """

    def __init__(
        self,
        tasks: TaskStore,
        queue: TaskQueue,
        runner: TaskExecutor,
        results: Results,
        concurrency: int,
        usage: UsageBook | None = None,
    ) -> None:
        self._tasks = tasks
        self._queue = queue
        self._leases = Leases(tasks, queue)
        self._runner = runner
        self._results = results
        self._concurrency = concurrency
        self._usage = usage
        self._running: set[asyncio.Task[None]] = set()
        self._suspect = asyncio.Lock()  # held for the one task that may be what kills its workers
        self._suspects: set[str] = set()
        self._closing = False
        self._stopped = asyncio.Event()
        self._metrics = TaskMetrics()

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
        if free <= 0:
            await asyncio.wait(self._running, timeout=TAKE_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        try:
            messages = await self._queue.take(max(free, 0), TAKE_WAIT_S, left=free + self._concurrency)
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
                await self._queue.remove(message)
        except BrokerError as error:
            log.warning("task %s will come again: %s", message.task_id, error.__cause__)
        except asyncio.CancelledError:  # this worker ends
            if await self._tasks.hand_back(message.task_id):
                await self._queue.remove(message)
            raise
        except Exception:
            log.exception("task %s: the worker has a bug", message.task_id)

    async def _is_over(self, message: Message) -> bool:
        """Do what the message says, if nobody else does. False while somebody else works on its task."""
        task_id = message.task_id
        if self._leases.holds(task_id) or task_id in self._suspects:  # its message came again
            return False
        record = await self._tasks.get(task_id)
        if record is None or record.finished or record.attempts < ISOLATE_AFTER_DEATHS:
            return await self._try(message)
        self._suspects.add(task_id)
        try:
            async with self._suspect:
                return await self._try(message)
        finally:
            self._suspects.discard(task_id)

    async def _try(self, message: Message) -> bool:
        """Claim the task and do it. False where somebody else has it."""
        claim = await self._tasks.claim(message.task_id)
        record = await self._tasks.get(message.task_id)
        if claim is Claim.OURS and record is not None:
            return await self._perform(record, message)
        if claim is Claim.OVER and not (record and record.dead):  # its worker may have died before it deleted the photo
            await self._delete([photo_key(message.task_id)])
        if claim is Claim.HELD:  # if by a dead one, it took the message and claimed the task a moment later
            await self._queue.postpone(message, await self._tasks.lease_left_s(message.task_id))
        return claim is not Claim.HELD

    async def _perform(self, record: TaskRecord, message: Message) -> bool:
        """False where somebody else works on the task now, and needs its message should they die."""
        task = record.task
        self._metrics.taken(record)
        try:
            async with self._leases.hold(task.task_id, message):
                await self._finalise(task, await self._ending(record))
            return True
        except TaskLostError:
            log.info("task %s was cancelled, or is in other hands", task.task_id)
            now = await self._tasks.get(task.task_id)
            if now is None or now.status == "CANCELLED":
                await self._delete(task_files(task))
            elif now.finished and not now.dead:
                await self._delete([photo_key(task.task_id)])
            return now is None or now.finished

    async def _ending(self, record: TaskRecord) -> Ending:
        task_id = record.task.task_id
        try:
            if record.attempts > MAX_DEATHS:
                raise GivenUpError(f"The process that worked on this died, {MAX_DEATHS} times. It is not tried again.")
            return Ending("SUCCESS", await self._until_made(record.task))
        except GivenUpError as error:
            log.error("task %s is given up: %s", task_id, error)
            return Ending("FAILED", failure_outcome(error), dead=True)
        except AvatarError as error:
            return Ending("FAILED", failure_outcome(error))
        except Exception as error:
            log.exception("task %s failed", task_id)
            return Ending("FAILED", failure_outcome(error))

    async def _until_made(self, task: Task) -> Outcome:
        """Run, again and again while the reason is not the task's own; its deadline ends that.

        Raises: GivenUpError where stages go on dying under it; what the runner raises.
        """
        fetch_s, deaths = 0.0, 0

        async def photo() -> Photo:
            nonlocal fetch_s
            started = time.perf_counter()
            packed = await self._results.get(photo_key(task.task_id))
            fetched = await asyncio.to_thread(unpack_photo, packed)
            fetch_s = time.perf_counter() - started
            return fetched

        for pause_s in _pauses_s():
            try:
                record = await self._tasks.get(task.task_id)
                return success_outcome(
                    await self._runner.run(task, photo, done=record.avatars if record else {}), fetch_s
                )
            except (OverloadedError, *STAGE_LOST) as error:
                deaths += not isinstance(error, OverloadedError)  # the pipeline has tried several times before
                if deaths == MAX_DEATHS:
                    raise GivenUpError(
                        "The stages that worked on this died, every time. It is not tried again."
                    ) from error
                log.warning("task %s: %s; again in %g s", task.task_id, type(error).__name__, pause_s)
                await asyncio.sleep(pause_s)
        raise AssertionError("the pauses do not end")

    async def _finalise(self, task: Task, ending: Ending) -> None:
        """Record the ending, however long the broker is away; then what is not needed any more is deleted."""
        for pause_s in _pauses_s():
            try:
                if not await self._tasks.finish(task, ending.status, ending.outcome, dead=ending.dead):
                    raise TaskLostError("The task was cancelled.")
                break
            except BrokerError as error:
                log.warning("task %s: its outcome is not recorded yet: %s", task.task_id, error.__cause__)
                await asyncio.sleep(pause_s)
        self._metrics.ended(task, ending.status, ending.outcome)
        if self._usage is not None:
            self._usage.made(task.token, ending.outcome.avatars)
        if not ending.dead:  # an operator may queue it again
            await self._delete([photo_key(task.task_id)] if ending.status == "SUCCESS" else task_files(task))

    async def _delete(self, keys: Iterable[str]) -> None:
        try:
            await self._results.delete(keys)
        except StoreError as error:
            log.warning("a file of a task could not be deleted: %s", error)


def _pauses_s() -> Iterator[float]:
    return itertools.chain(PAUSES_S, itertools.repeat(PAUSES_S[-1]))

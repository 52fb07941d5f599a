"""The worker takes queued tasks and runs them through the same pipeline as the ingress."""

import asyncio
import logging

from deployments.errors import AvatarError, NotBegunError
from deployments.types import Photo
from serve_app.backends.object_store import Results, photo_keys
from serve_app.errors import BrokerError, GivenUpError, OverloadedError, StoreError
from serve_app.generation.execution import FinalOutcome, TaskExecution, failure_outcome, pauses_s
from serve_app.photos.decode import unpack_photo
from serve_app.photos.source import MAX_PHOTOS
from serve_app.pipeline.calls import STAGE_LOST, all_or_none
from serve_app.tasks.leases import TaskLostError
from serve_app.tasks.models import Claim, Outcome, Task, TaskRecord
from serve_app.tasks.store import TaskStore
from serve_app.tasks.stream import Message, TaskQueue

TAKE_WAIT_S = 0.5
MAX_DEATHS = 3  # a task whose processes died so often is not tried again
ISOLATE_AFTER_DEATHS = 2  # from then on no two such tasks run at once, so that an innocent one survives

log = logging.getLogger(__name__)


class TaskWorker:
    """Runs up to `concurrency` tasks at once; tasks that it took survive its death and the broker's.

    Tasks of dead workers have waited in the queue already: up to `concurrency` of them run in addition.
    """

    def __init__(
        self,
        tasks: TaskStore,
        queue: TaskQueue,
        execution: TaskExecution,
        results: Results,
        concurrency: int,
    ) -> None:
        self._tasks = tasks
        self._queue = queue
        self._execution = execution
        self._results = results
        self._concurrency = concurrency
        self._running: set[asyncio.Task[None]] = set()
        self._isolation = asyncio.Lock()  # held by the one running task that may have killed its workers
        self._suspects: set[str] = set()
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
        """Take no more tasks, wait `grace_s` for the running ones, and return the unfinished ones to the queue."""
        self._closing = True
        await self._stopped.wait()  # its last `take` must not take what is returned below
        if self._running:
            await asyncio.wait(self._running, timeout=grace_s)
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._execution.close()

    async def _start_next(self) -> None:
        free = self._concurrency - len(self._running)
        if free <= 0:
            await asyncio.wait(self._running, timeout=TAKE_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        try:
            messages = await self._queue.take(max(free, 0), TAKE_WAIT_S, left=free + self._concurrency)
        except BrokerError as error:
            log.warning("cannot take tasks: %s", error.__cause__)
            await asyncio.sleep(TAKE_WAIT_S)
            return
        for message in messages:
            running = asyncio.create_task(self.handle(message))
            self._running.add(running)
            running.add_done_callback(self._running.discard)

    async def handle(self, message: Message) -> None:
        """Run the task of a message, and delete that. If the broker fails meanwhile, it will be delivered again."""
        try:
            if await self._is_over(message):
                await self._queue.remove(message)
        except BrokerError as error:
            log.warning("task %s will be delivered again: %s", message.task_id, error.__cause__)
        except asyncio.CancelledError:  # this worker shuts down
            if await self._tasks.hand_back(message.task_id):
                await self._queue.remove(message)
            raise
        except Exception:
            log.exception("task %s: the worker has a bug", message.task_id)

    async def _is_over(self, message: Message) -> bool:
        """Run the task of a message unless it runs already. False while another process works on it."""
        task_id = message.task_id
        if self._execution.holds(task_id) or task_id in self._suspects:  # its message was delivered again
            return False
        record = await self._tasks.get(task_id)
        begun = record is not None and record.started_at is not None  # a worker had it before
        if record is None or record.finished or record.attempts < ISOLATE_AFTER_DEATHS:
            return await self._try(message, begun)
        self._suspects.add(task_id)
        try:
            async with self._isolation:
                return await self._try(message, begun)
        finally:
            self._suspects.discard(task_id)

    async def _try(self, message: Message, begun: bool) -> bool:
        """Claim the task and run it. False where another process has leased it."""
        claim = await self._tasks.claim(message.task_id)
        record = await self._tasks.get(message.task_id)
        if claim is Claim.ACQUIRED and record is not None:
            return await self._perform(record, message, begun)
        if claim is Claim.FINISHED:  # the worker that had it may have died before it deleted its files
            unneeded = photo_keys(message.task_id, MAX_PHOTOS) if record is None else record.unneeded_files
            await self._execution.delete(unneeded)
        if claim is Claim.LEASED:  # in case its owner is dead: try again when the lease has expired
            await self._queue.postpone(message, await self._tasks.lease_left_s(message.task_id))
        return claim is not Claim.LEASED

    async def _perform(self, record: TaskRecord, message: Message, begun: bool) -> bool:
        """Run a leased task and finalise it.

        False where another process works on it now, which needs the message in case it dies.
        """
        self._execution.metrics.taken(record)
        try:
            async with self._execution.leased(record.task, message):
                await self._execution.finish(record.task, await self._run(record, begun))
            return True
        except TaskLostError:
            log.info("task %s was cancelled, or another process leased it", message.task_id)
            now = await self._tasks.get(message.task_id)
            return now is None or now.finished

    async def _run(self, record: TaskRecord, begun: bool) -> FinalOutcome:
        task_id = record.task.task_id
        try:
            if record.attempts > MAX_DEATHS:
                raise GivenUpError(f"The process that worked on this died, {MAX_DEATHS} times. It is not tried again.")
            return FinalOutcome("SUCCESS", await self._run_with_retries(record.task, begun))
        except GivenUpError as error:
            log.error("task %s is a dead letter now: %s", task_id, error)
            return FinalOutcome("FAILED", failure_outcome(error), dead=True)
        except NotBegunError as error:
            await self._execution.give_back(record.task)
            return FinalOutcome("FAILED", failure_outcome(error))
        except AvatarError as error:
            return FinalOutcome("FAILED", failure_outcome(error))
        except Exception as error:
            log.exception("task %s failed", task_id)
            return FinalOutcome("FAILED", failure_outcome(error))

    async def _run_with_retries(self, task: Task, begun: bool) -> Outcome:
        """Run a task, again after each failure of the service, until its deadline.

        It has `begun` as soon as a stage was lost, or the store, which comes last, did not answer.

        Raises: GivenUpError where its stages died MAX_DEATHS times; what the executor raises.
        """
        deaths = 0
        for pause_s in pauses_s():
            try:
                record = await self._tasks.get(task.task_id)
                done = record.avatars if record else {}
                return await self._execution.run(task, lambda: self._photos(task), done=done, begun=begun)
            except (OverloadedError, *STAGE_LOST) as error:
                begun = begun or isinstance(error, (StoreError, *STAGE_LOST))
                deaths += not isinstance(error, OverloadedError)  # the pipeline has retried several times already
                if deaths == MAX_DEATHS:
                    raise GivenUpError(
                        "The stages that worked on this died, every time. It is not tried again."
                    ) from error
                log.warning("task %s: %s; next attempt in %g s", task.task_id, type(error).__name__, pause_s)
                await asyncio.sleep(pause_s)
        raise AssertionError("the pauses do not end")

    async def _photos(self, task: Task) -> list[Photo]:
        return await all_or_none(map(self._photo, photo_keys(task.task_id, task.request.photo_count)))

    async def _photo(self, key: str) -> Photo:
        return await asyncio.to_thread(unpack_photo, await self._results.get(key))

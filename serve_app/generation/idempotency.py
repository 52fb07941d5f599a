"""Requests with one idempotency key: the first runs, its repeats wait for its record."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from serve_app.errors import UnknownTaskError
from serve_app.generation.admission import FairSlots
from serve_app.generation.execution import TaskExecution, within_deadline
from serve_app.pipeline.calls import detach
from serve_app.schemas.requests import AvatarRequest, body_digest
from serve_app.schemas.responses import Status
from serve_app.tasks.leases import TaskLostError
from serve_app.tasks.models import Task, TaskRecord
from serve_app.tasks.store import TaskStore

REPEAT_POLL_S = 0.2  # between reads of the first request's record by a repeat
CLOSE_TIMEOUT_S = 10

Run = Callable[[Task], Coroutine[Any, Any, TaskRecord]]


class IdempotentRuns:
    """Runs that outlive their clients, and the repeats that wait for them in one ingress replica."""

    def __init__(self, tasks: TaskStore, execution: TaskExecution, waiting: FairSlots) -> None:
        """`waiting` bounds the repeats that wait."""
        self._tasks = tasks
        self._execution = execution
        self._waiting = waiting
        self._detached: set[asyncio.Task[TaskRecord]] = set()

    async def once(self, task: Task, status: Status, request: AvatarRequest, run: Run) -> TaskRecord:
        """Run a task once for all requests with its idempotency key, which wait for its record.

        The run continues when its client disconnects. If its ingress dies, the next repeat runs it again.
        """
        task_id = await self._tasks.create(task, status, await asyncio.to_thread(body_digest, request))
        async with within_deadline(task):
            if task_id == task.task_id:
                with suppress(TaskLostError):  # cancelled, or leased by another ingress: wait for the record
                    return await self._run_on(task, request, run)
            record = await record_of(self._tasks, task_id)
            if _is_answered(record):
                return record
            with self._waiting.hold(task.owner):
                while not _is_answered(record):
                    if await self._execution.claim(record, status):
                        with suppress(TaskLostError):
                            return await self._run_on(record.task, request, run)
                    else:
                        await asyncio.sleep(REPEAT_POLL_S)
                    record = await record_of(self._tasks, task_id)
                return record

    async def close(self) -> None:
        """Wait up to CLOSE_TIMEOUT_S for the runs whose clients have left."""
        if self._detached:
            await asyncio.wait(self._detached, timeout=CLOSE_TIMEOUT_S)

    async def _run_on(self, task: Task, request: AvatarRequest, run: Run) -> TaskRecord:
        """Run a leased task, which goes on if this request is cancelled. Raises: what `run` raises."""
        running = detach(run(task), self._detached, "a request failed")
        request.file_url.retain()  # the run may outlive this request
        running.add_done_callback(lambda _: request.file_url.release())
        return await asyncio.shield(running)


async def record_of(tasks: TaskStore, task_id: str) -> TaskRecord:
    """The record of a task that was there. Raises: UnknownTaskError; BrokerError."""
    record = await tasks.get(task_id)
    if record is None:
        raise UnknownTaskError("The record of this task has expired.", task_id=task_id)
    return record


def _is_answered(record: TaskRecord) -> bool:
    """A queued task is answered once it is in the queue: until then it could still be lost."""
    return record.finished or record.message_id is not None

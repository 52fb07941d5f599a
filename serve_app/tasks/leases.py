"""The leases of the tasks that this process runs: renewed while it does, and the work stops when one is lost."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence

from deployments.errors import AvatarError
from serve_app.errors import BrokerError
from serve_app.tasks.models import LEASE_S, UNFINISHED
from serve_app.tasks.store import TaskStore
from serve_app.tasks.stream import Message, TaskQueue

POLL_S = 0.25  # a cancellation is noticed within this time
RENEW_S = LEASE_S / 4

log = logging.getLogger(__name__)


class TaskLostError(AvatarError):
    """The task was cancelled, or another process has leased it."""


class Leases:
    """Renews leases, and stops the work on tasks that were cancelled. Lives on one event loop.

    While the broker is unavailable, work continues: a lease that expired meanwhile is renewed unless another process
    has taken it.
    """

    def __init__(self, tasks: TaskStore, queue: TaskQueue | None = None) -> None:
        self._tasks = tasks
        self._queue = queue
        self._scopes: dict[str, asyncio.Timeout | None] = {}  # None: not interrupted any more
        self._messages: dict[str, Message] = {}
        self._keeper: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def hold(self, task_id: str, message: Message | None = None) -> AsyncIterator[None]:
        """Keep the lease of a claimed task while the block runs. Raises: TaskLostError, interrupting the block."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
        if message is not None:
            self._messages[task_id] = message
        try:
            async with asyncio.timeout(None) as scope:
                self._scopes[task_id] = scope
                yield
        except TimeoutError:
            if not scope.expired():
                raise
            raise TaskLostError("The task was cancelled.") from None
        finally:
            self._scopes.pop(task_id, None)
            self._messages.pop(task_id, None)

    def stop_interrupting(self, task_id: str) -> None:
        """Only renew the lease from now on: its task is being recorded as over, which tells whether it was lost."""
        if task_id in self._scopes:
            self._scopes[task_id] = None

    def holds(self, task_id: str) -> bool:
        """Whether this process works on the task."""
        return task_id in self._scopes

    async def close(self) -> None:
        """Stop renewing; what is still held expires within LEASE_S."""
        if self._keeper is not None:
            self._keeper.cancel()

    async def _keep(self) -> None:
        renewed_at = time.monotonic()
        while True:
            await asyncio.sleep(POLL_S)
            try:
                if time.monotonic() - renewed_at >= RENEW_S:
                    await self._renew()
                    renewed_at = time.monotonic()
                else:
                    await self._check()
            except BrokerError as error:
                log.warning("leases are not renewed: %s", error.__cause__)

    async def _check(self) -> None:
        task_ids = list(self._scopes)
        self._stop_lost(task_ids, [status in UNFINISHED for status in await self._tasks.statuses(task_ids)])

    async def _renew(self) -> None:
        task_ids = list(self._scopes)
        self._stop_lost(task_ids, await self._tasks.renew(task_ids))
        if self._queue is not None:
            await self._queue.touch([self._messages[task_id] for task_id in self._scopes if task_id in self._messages])

    def _stop_lost(self, task_ids: Sequence[str], kept: Sequence[bool]) -> None:
        for task_id, is_kept in zip(task_ids, kept, strict=True):
            scope = self._scopes.get(task_id)
            if not is_kept and scope is not None and not scope.expired():
                scope.reschedule(asyncio.get_running_loop().time())

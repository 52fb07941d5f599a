"""Notifies listeners of changes to tasks and of revoked tokens, with one reader per process for all of them.

A stream of ids rather than pub/sub: after a broken connection the reader resumes where it stopped. The stream is short
and may drop old entries, so listeners also poll now and then.
"""

import asyncio
import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from typing import Any

from serve_app.backends.redis import Redis
from serve_app.errors import BrokerError
from serve_app.tasks.keys import TaskKeys
from serve_app.tasks.previews import PreviewChannel
from serve_app.tasks.shared_reader import SharedReader

READ_S = 2.0  # of one blocking read
AT_ONCE = 500
PAUSE_S = 1.0  # while the broker is unavailable

log = logging.getLogger(__name__)


class ChangeStream(SharedReader):
    """Lives on one event loop; reads only while there are listeners, and `previews` while there are for those."""

    def __init__(self, redis: Redis) -> None:
        self.previews = PreviewChannel(redis)
        super().__init__()
        self._redis = redis
        self._stream = TaskKeys(redis.prefix).changes
        self._listeners: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._by_token: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._owners: Counter[str] = Counter()

    @property
    def listeners(self) -> int:
        """The number of listeners in this process."""
        return sum(map(len, self._listeners.values()))

    def listeners_of(self, owner: str) -> int:
        """The number of listeners of one owner in this process."""
        return self._owners[owner]

    @contextlib.asynccontextmanager
    async def listen(self, task_id: str, owner: str, token: str) -> AsyncIterator[asyncio.Event]:
        """An event that every change of the task and the revocation of the token (its id) set.

        The listener clears it, then reads the record.
        """
        changed = asyncio.Event()
        self._listeners[task_id].add(changed)
        self._by_token[token].add(changed)
        self._owners[owner] += 1
        self._start()
        try:
            yield changed
        finally:
            self._listeners[task_id].discard(changed)
            self._by_token[token].discard(changed)
            self._owners -= Counter([owner])
            if not self._by_token[token]:
                del self._by_token[token]
            if not self._listeners[task_id]:
                del self._listeners[task_id]
            if not self._listeners:
                await self.close()

    async def _read(self) -> None:
        last = None
        while self._is_reading:
            try:
                if last is None:
                    last = await self._newest()
                    self._notify(*self._listeners)  # earlier changes are not read
                changes = await self._after(last)
            except BrokerError as error:
                log.warning("cannot read changes of tasks: %s", error.__cause__)
                await asyncio.sleep(PAUSE_S)
                continue
            if changes:
                last = changes[-1][0]
                self._notify(*(fields["task_id"] for _id, fields in changes))
                self._notify_revoked(*(fields["token"] for _id, fields in changes if "token" in fields))

    async def _newest(self) -> str:
        newest: Any = await self._redis.xrevrange(self._stream, count=1)
        return str(newest[0][0]) if newest else "0-0"

    async def _after(self, last: str) -> list[tuple[str, dict[str, str]]]:
        streams: Any = {self._stream: last}
        answer: Any = await self._redis.xread(streams, count=AT_ONCE, block=round(READ_S * 1000))
        return [entry for _stream, entries in answer or () for entry in entries]

    def _notify(self, *task_ids: str) -> None:
        for task_id in task_ids:
            for changed in self._listeners.get(task_id, ()):
                changed.set()

    def _notify_revoked(self, *tokens: str) -> None:
        for token in tokens:
            for changed in self._by_token.get(token, ()):
                changed.set()

"""Previews of unfinished images on their way from generators to those who follow their tasks.

They are published, so the broker keeps them nowhere: neither in its memory nor in its file. Who does not listen at that
moment never sees them.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from pydantic import TypeAdapter
from redis.exceptions import RedisError

from deployments.types import ImagePreview
from serve_app.backends.redis import Redis
from serve_app.tasks.keys import TaskKeys
from serve_app.tasks.shared_reader import SharedReader

IMAGE_PREVIEW = TypeAdapter(ImagePreview)
READ_S = 2.0  # of one wait for a message
PAUSE_S = 1.0  # while the broker is unavailable

log = logging.getLogger(__name__)


class Previews:
    """The newest preview of each image of a task, by its index. `changed` is set by every new one."""

    def __init__(self, changed: asyncio.Event) -> None:
        self.changed = changed
        self.newest: dict[int, ImagePreview] = {}

    def pictures(self, images: int) -> list[str | None]:
        """Data URLs, one entry an image; None where there is no preview yet."""
        newest = [self.newest.get(index) for index in range(images)]
        return [None if preview is None else preview.picture for preview in newest]


class PreviewChannel(SharedReader):
    """One subscription per process for all who follow tasks. Lives on one event loop; reads while there are any."""

    def __init__(self, redis: Redis) -> None:
        super().__init__()
        self._redis = redis
        self._channel = TaskKeys(redis.prefix).previews
        self._followers: defaultdict[str, set[Previews]] = defaultdict(set)

    @contextlib.asynccontextmanager
    async def follow(self, task_id: str, changed: asyncio.Event) -> AsyncIterator[Previews]:
        """The previews of a task while the block runs; none come while the broker is unavailable."""
        previews = Previews(changed)
        self._followers[task_id].add(previews)
        self._start()
        try:
            yield previews
        finally:
            self._followers[task_id].discard(previews)
            if not self._followers[task_id]:
                del self._followers[task_id]
            if not self._followers:
                await self.close()

    async def _read(self) -> None:
        while self._is_reading:
            try:
                await self._read_on()
            except (RedisError, OSError) as error:
                log.warning("cannot read previews: %s", error)
                await asyncio.sleep(PAUSE_S)

    async def _read_on(self) -> None:
        subscription: Any = self._redis.pubsub(ignore_subscribe_messages=True)
        try:
            await subscription.subscribe(self._channel)
            while self._is_reading:
                message = await subscription.get_message(timeout=READ_S)
                if message is not None:
                    with suppress(ValueError):  # what another version publishes may not be known here
                        self._show(IMAGE_PREVIEW.validate_json(message["data"]))
        finally:
            with suppress(RedisError, OSError):
                await subscription.aclose()

    def _show(self, preview: ImagePreview) -> None:
        for follower in self._followers.get(preview.task_id, ()):
            follower.newest[preview.image_index] = preview
            follower.changed.set()

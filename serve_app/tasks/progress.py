"""How far the images of tasks are, step by step: beside the records, and gone soon after the last report.

The generators write it, whoever answers a client reads it. Nothing depends on it: a lost report is a late one.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter
from redis.asyncio import Redis

from deployments.types import ImageProgress
from serve_app.backends.redis import BrokerSettings, connect
from serve_app.errors import BrokerError
from serve_app.tasks.models import Keys

KEPT_S = 5  # after the last report: the generator may have died
CHANGES_KEPT = 1000

IMAGE = TypeAdapter(ImageProgress)


class ProgressReporter:
    """The `ProgressSink` of a generator replica. Picklable; connects when there is something to report."""

    def __init__(self, settings: BrokerSettings, data_dir: Path) -> None:
        self._settings = settings
        self._data_dir = data_dir
        self._keys = Keys(settings.prefix)
        self._redis: Redis | None = None

    async def report(self, progress: Sequence[ImageProgress]) -> None:
        """Raises: ConnectionError where the broker does not answer."""
        if self._redis is None:
            self._redis = connect(self._settings, self._data_dir)
        pipe = self._redis.pipeline(transaction=False)
        for image in progress:
            key = self._keys.progress(image.task_id)
            pipe.hset(key, str(image.image_index), IMAGE.dump_json(image).decode())
            pipe.expire(key, KEPT_S)
        for task_id in {image.task_id for image in progress}:
            pipe.xadd(self._keys.changes, {"task_id": task_id}, maxlen=CHANGES_KEPT)
        try:
            await pipe.execute()
        except BrokerError as error:
            raise ConnectionError("progress is not reported") from error


class ProgressReader:
    """Reads what was reported."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def of(self, task_id: str) -> dict[int, ImageProgress]:
        """The images of a task that are being drawn or wait for it, by their index. Raises: BrokerError."""
        found = await self._redis.hgetall(self._keys.progress(task_id))
        return {int(index): IMAGE.validate_json(value) for index, value in found.items()}

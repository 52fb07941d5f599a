"""The progress of images in denoising steps, stored beside the task records; it expires soon after the last report.

The generators write it, the ingresses read it. It is only informative, so a lost report does no harm. Previews of the
images are published with it, and stored nowhere.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from deployments.types import ImagePreview, ImageProgress
from serve_app.backends.redis import BrokerSettings, Redis, connect
from serve_app.errors import BrokerError
from serve_app.tasks.keys import TaskKeys
from serve_app.tasks.loaded_models import LoadedModels
from serve_app.tasks.models import IMAGE_PROGRESS
from serve_app.tasks.previews import IMAGE_PREVIEW

TTL_S = 5  # after the last report: the generator may have died
MAX_CHANGES = 1000


class ProgressReporter:
    """The `ProgressSink` of a generator replica. Picklable, also when connected; connects on the first report."""

    def __init__(self, settings: BrokerSettings, data_dir: Path) -> None:
        self._settings = settings
        self._data_dir = data_dir
        self._keys = TaskKeys(settings.prefix)
        self._redis: Redis | None = None

    def __reduce__(self) -> tuple[type["ProgressReporter"], tuple[BrokerSettings, Path]]:
        return type(self), (self._settings, self._data_dir)

    async def report(self, progress: Sequence[ImageProgress], previews: Sequence[ImagePreview] = ()) -> None:
        """Raises: ConnectionError while the broker is unavailable."""
        pipe = self._connected().pipeline(transaction=False)
        for preview in previews:
            pipe.publish(self._keys.previews, IMAGE_PREVIEW.dump_json(preview).decode())
        for image in progress:
            key = self._keys.progress(image.task_id)
            pipe.hset(key, str(image.image_index), IMAGE_PROGRESS.dump_json(image).decode())
            pipe.expire(key, TTL_S)
        for task_id in {image.task_id for image in progress}:
            pipe.xadd(self._keys.changes, {"task_id": task_id}, maxlen=MAX_CHANGES)
        try:
            await pipe.execute()
        except BrokerError as error:
            raise ConnectionError("progress is not reported") from error

    async def report_models(self, loaded: Mapping[str, float]) -> None:
        """Raises: ConnectionError while the broker is unavailable."""
        try:
            await LoadedModels(self._connected()).report(loaded)
        except BrokerError as error:
            raise ConnectionError("models are not reported") from error

    def _connected(self) -> Redis:
        if self._redis is None:
            self._redis = connect(self._settings, self._data_dir)
        return self._redis

"""The blocking client."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Unpack

from serve_app.client.batches import BatchRequests
from serve_app.client.connection import Connection
from serve_app.client.requests import RETRIES, TIMEOUT_S, WAIT_S, Requests, Resource
from serve_app.client.values import (
    AppInfo,
    AvatarImage,
    AvatarParameters,
    Batch,
    BatchItem,
    BatchResult,
    Faces,
    Photo,
    Photos,
    Task,
    Verdict,
    batch_id_of,
    task_id_of,
)


class FaceAvatarClient:
    """The client of one service with one token.

    `timeout_s` limits each call, retries included (a create with a later deadline: that deadline and GRACE_S); an
    answer that stalls halfway may take as long again. `retries` is the most retries of a call, `sleep` waits between
    them.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._requests = requests = Requests(url, token, timeout_s, retries)
        self._connection = Connection(sleep)
        self.avatars = Avatars(requests, self._connection)
        self.batches = Batches(requests, self._connection)
        self.faces = FaceFinder(requests, self._connection)
        self.apps = Apps(requests, self._connection)

    def __enter__(self) -> "FaceAvatarClient":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def verify(self, picture: Photo) -> Verdict:
        """Whether this service made a picture, and whether it is unchanged."""
        return self._connection.run(self._requests.verify(picture))

    def close(self) -> None:
        """Close all connections, as the end of `with` does; the client is of no use afterwards."""
        self._connection.close()


class Avatars(Resource[Connection]):
    """`client.avatars`"""

    def create(self, photo: Photos, **parameters: Unpack[AvatarParameters]) -> Task:
        """Generate avatars of a photo, or of several of one person, and wait for them.

        Retries after a dropped connection do not generate anything twice.
        """
        return self._connection.run(self._requests.create(photo, parameters))

    def submit(self, photo: Photos, **parameters: Unpack[AvatarParameters]) -> Task:
        """Queue a task without waiting for it: see `wait`, `events` and `get`."""
        return self._connection.run(self._requests.submit(photo, parameters))

    def get(self, task_id: str) -> Task:
        """The current state of a task, also of a failed one, with newly signed URLs."""
        return self._connection.run(self._requests.get(task_id))

    def wait(
        self, task: Task | str, *, timeout_s: float = WAIT_S, progress: Callable[[Task], None] = lambda _task: None
    ) -> Task:
        """The finished task, successful or not; `progress` is called with each state.

        Raises: NotFinishedError.
        """
        return self._connection.run(self._requests.follow(task_id_of(task), timeout_s), progress)

    def events(self, task: Task | str, *, timeout_s: float = WAIT_S) -> Iterator[Task]:
        """Each state of a task until it is finished, including the last. Reconnects when the stream breaks."""
        return self._connection.values(self._requests.follow(task_id_of(task), timeout_s))

    def cancel(self, task: Task | str) -> Task:
        """Cancel an unfinished task; delete the results of a finished one."""
        return self._connection.run(self._requests.cancel(task_id_of(task)))

    def download(self, image: AvatarImage | str) -> bytes:
        """The bytes of an image, by itself or by one of its URLs: PNG, WebP or JPEG, at most MAX_IMAGE_BYTES."""
        return self._connection.run(self._requests.download(image))


class Batches(Resource[Connection]):
    """`client.batches`: many requests whose results are read together."""

    def __init__(self, requests: Requests, connection: Connection) -> None:
        super().__init__(requests, connection)
        self._batches = BatchRequests(requests)

    def create(
        self,
        defaults: AvatarParameters | None = None,
        *,
        ref_id: str | None = None,
        metadata: dict[str, str] | None = None,
        webhook_url: str | None = None,
    ) -> Batch:
        """Open a batch; `defaults` hold for all its requests that do not say otherwise."""
        return self._connection.run(self._batches.create(defaults, ref_id, metadata, webhook_url))

    def add(self, batch: Batch | str, items: Iterable[BatchItem]) -> int:
        """Add up to 100 requests, all or none; returns how many the batch did not have yet.

        Raises: ServiceError, whose `error_data["fields"]` names the `custom_id` of each problem.
        """
        return self._connection.run(self._batches.add(batch_id_of(batch), items))

    def close(self, batch: Batch | str) -> Batch:
        """Say that all requests are added."""
        return self._connection.run(self._batches.close(batch_id_of(batch)))

    def get(self, batch: Batch | str) -> Batch:
        """The current state of a batch."""
        return self._connection.run(self._batches.get(batch_id_of(batch)))

    def list(self) -> tuple[Batch, ...]:
        """The newest batches of the token's owner, the newest first."""
        return self._connection.run(self._batches.list())

    def results(self, batch: Batch | str, *, after: int = 0) -> Iterator[BatchResult]:
        """The results that there are, in the order in which requests ended; `after`: the last index that you have."""
        for result in self._connection.values(self._batches.results(batch_id_of(batch), after)):
            if result is not None:  # the end
                yield result

    def cancel(self, batch: Batch | str) -> Batch:
        """Cancel what has not ended; the results that there are stay."""
        return self._connection.run(self._batches.cancel(batch_id_of(batch)))


class FaceFinder(Resource[Connection]):
    """`client.faces`"""

    def inspect(self, photo: Photo, app_id: str | None = None) -> Faces:
        """The faces of a photo, and whether it would be accepted, for an app; generates nothing."""
        return self._connection.run(self._requests.inspect(photo, app_id))


class Apps(Resource[Connection]):
    """`client.apps`"""

    def list(self) -> tuple[AppInfo, ...]:
        """The apps that `app_id` can name."""
        return self._connection.run(self._requests.apps())

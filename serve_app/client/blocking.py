"""The client that waits."""

import time
from collections.abc import Callable, Iterator
from typing import Unpack

from serve_app.client.connection import Connection, nothing
from serve_app.client.exchange import Tell
from serve_app.client.requests import RETRIES, TIMEOUT_S, WAIT_S, Requests
from serve_app.client.values import AppInfo, AvatarImage, AvatarParameters, Faces, Photo, Task, Verdict, task_id_of


class FaceAvatarClient:
    """One service, and one token for it.

    `timeout_s` bounds each call, its repeats included (a create with a later deadline: that and GRACE_S); an answer
    that stalls halfway may take as long again. `retries` is how often at most a call is repeated, `sleep` how the time
    in between is spent.
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
        self.faces = FaceFinder(requests, self._connection)
        self.apps = Apps(requests, self._connection)

    def __enter__(self) -> "FaceAvatarClient":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def verify(self, picture: Photo) -> Verdict:
        """Whether a picture is one that this service made, and as it was."""
        return self._connection.run(self._requests.verify(picture))

    def close(self) -> None:
        self._connection.close()


class Avatars:
    """`client.avatars`"""

    def __init__(self, requests: Requests, connection: Connection) -> None:
        self._requests = requests
        self._connection = connection

    def create(self, photo: Photo, **parameters: Unpack[AvatarParameters]) -> Task:
        """Have avatars made and wait for them. A dropped connection is taken up again: nothing is drawn twice."""
        return self._connection.run(self._requests.create(photo, parameters))

    def submit(self, photo: Photo, **parameters: Unpack[AvatarParameters]) -> Task:
        """Queue a task and do not wait for it: see `wait`, `events` and `get`."""
        return self._connection.run(self._requests.submit(photo, parameters))

    def get(self, task_id: str) -> Task:
        """A task as it stands, failed ones too; its URLs are signed anew."""
        return self._connection.run(self._requests.get(task_id))

    def wait(self, task: Task | str, *, timeout_s: float = WAIT_S, progress: Callable[[Task], None] = nothing) -> Task:
        """The finished task, whatever its end; `progress` is told of each state on the way.

        Raises: NotFinishedError.
        """
        return self._connection.run(self._requests.follow(task_id_of(task), timeout_s), progress)

    def events(self, task: Task | str, *, timeout_s: float = WAIT_S) -> Iterator[Task]:
        """Each state of a task until it is finished, the last one too. A stream that breaks off is taken up again."""
        for said in self._connection.steps(self._requests.follow(task_id_of(task), timeout_s)):
            if isinstance(said, Tell):
                yield said.value

    def cancel(self, task: Task | str) -> Task:
        """End an unfinished task; delete the results of a finished one."""
        return self._connection.run(self._requests.cancel(task_id_of(task)))

    def download(self, image: AvatarImage | str) -> bytes:
        """An image, or what one of its URLs leads to: PNG, WebP or JPEG, at most MAX_IMAGE_BYTES."""
        return self._connection.run(self._requests.download(image))


class FaceFinder:
    """`client.faces`"""

    def __init__(self, requests: Requests, connection: Connection) -> None:
        self._requests = requests
        self._connection = connection

    def inspect(self, photo: Photo) -> Faces:
        """The faces of a photo, and whether it would be accepted; nothing is drawn."""
        return self._connection.run(self._requests.inspect(photo))


class Apps:
    """`client.apps`"""

    def __init__(self, requests: Requests, connection: Connection) -> None:
        self._requests = requests
        self._connection = connection

    def list(self) -> tuple[AppInfo, ...]:
        """What `app_id` can name."""
        return self._connection.run(self._requests.apps())

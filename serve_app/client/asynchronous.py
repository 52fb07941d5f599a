"""The client for an event loop: the same methods, awaited."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Unpack

import httpx

from serve_app.client.batches import BatchRequests
from serve_app.client.connection import AsyncConnection
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


class AsyncFaceAvatarClient:
    """The asyncio client of one service with one token; see FaceAvatarClient for `timeout_s`, `retries` and `sleep`."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`transport` sends requests in place of httpx's own."""
        self._requests = requests = Requests(url, token, timeout_s, retries)
        self._connection = AsyncConnection(sleep, transport)
        self.avatars = AsyncAvatars(requests, self._connection)
        self.batches = AsyncBatches(requests, self._connection)
        self.faces = AsyncFaceFinder(requests, self._connection)
        self.apps = AsyncApps(requests, self._connection)

    async def __aenter__(self) -> "AsyncFaceAvatarClient":
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def verify(self, picture: Photo) -> Verdict:
        """Whether this service made a picture, and whether it is unchanged."""
        return await self._connection.run(await asyncio.to_thread(self._requests.verify, picture))

    async def close(self) -> None:
        """Close all connections, as the end of `async with` does; the client is of no use afterwards."""
        await self._connection.close()


class AsyncAvatars(Resource[AsyncConnection]):
    """`client.avatars`: the methods of `serve_app.client.blocking.Avatars`."""

    async def create(self, photo: Photos, **parameters: Unpack[AvatarParameters]) -> Task:
        """Generate avatars of a photo, or of several of one person, and wait; retries generate nothing twice.

        If this call is cancelled, the task goes on.
        """
        # In a thread, because it reads the photo's file.
        return await self._connection.run(await asyncio.to_thread(self._requests.create, photo, parameters))

    async def submit(self, photo: Photos, **parameters: Unpack[AvatarParameters]) -> Task:
        """Queue a task without waiting for it: see `wait`, `events` and `get`."""
        return await self._connection.run(await asyncio.to_thread(self._requests.submit, photo, parameters))

    async def get(self, task_id: str) -> Task:
        """The current state of a task, also of a failed one, with newly signed URLs."""
        return await self._connection.run(self._requests.get(task_id))

    async def wait(
        self, task: Task | str, *, timeout_s: float = WAIT_S, progress: Callable[[Task], None] = lambda _task: None
    ) -> Task:
        """The finished task, successful or not; `progress` is called with each state, on the event loop.

        Raises: NotFinishedError.
        """
        return await self._connection.run(self._requests.follow(task_id_of(task), timeout_s), progress)

    async def events(self, task: Task | str, *, timeout_s: float = WAIT_S) -> AsyncIterator[Task]:
        """Each state of a task until it is finished, including the last. Reconnects when the stream breaks.

        Use `aclosing` to leave early: the stream is otherwise closed only later, by asyncio. Raises: NotFinishedError.
        """
        async with aclosing(self._connection.values(self._requests.follow(task_id_of(task), timeout_s))) as states:
            async for state in states:
                yield state

    async def cancel(self, task: Task | str) -> Task:
        """Cancel an unfinished task; delete the results of a finished one."""
        return await self._connection.run(self._requests.cancel(task_id_of(task)))

    async def download(self, image: AvatarImage | str) -> bytes:
        """The bytes of an image, by itself or by one of its URLs: PNG, WebP or JPEG, at most MAX_IMAGE_BYTES.

        Raises: WithheldError.
        """
        return await self._connection.run(self._requests.download(image))


class AsyncBatches(Resource[AsyncConnection]):
    """`client.batches`: the methods of `serve_app.client.blocking.Batches`."""

    def __init__(self, requests: Requests, connection: AsyncConnection) -> None:
        super().__init__(requests, connection)
        self._batches = BatchRequests(requests)

    async def create(
        self,
        defaults: AvatarParameters | None = None,
        *,
        ref_id: str | None = None,
        metadata: dict[str, str] | None = None,
        webhook_url: str | None = None,
    ) -> Batch:
        """Open a batch; `defaults` hold for all its requests that do not say otherwise."""
        return await self._connection.run(self._batches.create(defaults, ref_id, metadata, webhook_url))

    async def add(self, batch: Batch | str, items: Iterable[BatchItem]) -> int:
        """Add up to 100 requests, all or none; returns how many the batch did not have yet."""
        # In a thread, because it reads the photos' files.
        return await self._connection.run(await asyncio.to_thread(self._batches.add, batch_id_of(batch), items))

    async def close(self, batch: Batch | str) -> Batch:
        """Say that all requests are added."""
        return await self._connection.run(self._batches.close(batch_id_of(batch)))

    async def get(self, batch: Batch | str) -> Batch:
        """The current state of a batch."""
        return await self._connection.run(self._batches.get(batch_id_of(batch)))

    async def list(self) -> tuple[Batch, ...]:
        """The newest batches of the token's owner, the newest first."""
        return await self._connection.run(self._batches.list())

    async def results(self, batch: Batch | str, *, after: int = 0) -> AsyncIterator[BatchResult]:
        """The results that there are, in the order in which requests ended; use `aclosing` to leave early."""
        async with aclosing(self._connection.values(self._batches.results(batch_id_of(batch), after))) as found:
            async for result in found:
                if result is not None:  # the end
                    yield result

    async def cancel(self, batch: Batch | str) -> Batch:
        """Cancel what has not ended; the results that there are stay."""
        return await self._connection.run(self._batches.cancel(batch_id_of(batch)))


class AsyncFaceFinder(Resource[AsyncConnection]):
    """`client.faces`"""

    async def inspect(self, photo: Photo, app_id: str | None = None) -> Faces:
        """The faces of a photo, and whether it would be accepted, for an app; generates nothing."""
        return await self._connection.run(await asyncio.to_thread(self._requests.inspect, photo, app_id))


class AsyncApps(Resource[AsyncConnection]):
    """`client.apps`"""

    async def list(self) -> tuple[AppInfo, ...]:
        """The apps that `app_id` can name."""
        return await self._connection.run(self._requests.apps())

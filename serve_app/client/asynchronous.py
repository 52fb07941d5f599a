"""The client for an event loop: the same methods, awaited."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Unpack

from serve_app.client.connection import AsyncConnection, nothing
from serve_app.client.exchange import Tell
from serve_app.client.requests import RETRIES, TIMEOUT_S, WAIT_S, Requests
from serve_app.client.values import AppInfo, AvatarImage, AvatarParameters, Faces, Photo, Task, Verdict, task_id_of


class AsyncFaceAvatarClient:
    """One service, and one token for it; for `timeout_s`, `retries` and `sleep` see FaceAvatarClient."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._requests = requests = Requests(url, token, timeout_s, retries)
        self._connection = AsyncConnection(sleep)
        self.avatars = AsyncAvatars(requests, self._connection)
        self.faces = AsyncFaceFinder(requests, self._connection)
        self.apps = AsyncApps(requests, self._connection)

    async def __aenter__(self) -> "AsyncFaceAvatarClient":
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def verify(self, picture: Photo) -> Verdict:
        return await self._connection.run(await asyncio.to_thread(self._requests.verify, picture))

    async def close(self) -> None:
        await self._connection.close()


class AsyncAvatars:
    """`client.avatars`; see `serve_app.client.blocking.Avatars` for what each does."""

    def __init__(self, requests: Requests, connection: AsyncConnection) -> None:
        self._requests = requests
        self._connection = connection

    async def create(self, photo: Photo, **parameters: Unpack[AvatarParameters]) -> Task:
        # In a thread: the photo is read from its file.
        return await self._connection.run(await asyncio.to_thread(self._requests.create, photo, parameters))

    async def submit(self, photo: Photo, **parameters: Unpack[AvatarParameters]) -> Task:
        return await self._connection.run(await asyncio.to_thread(self._requests.submit, photo, parameters))

    async def get(self, task_id: str) -> Task:
        return await self._connection.run(self._requests.get(task_id))

    async def wait(
        self, task: Task | str, *, timeout_s: float = WAIT_S, progress: Callable[[Task], None] = nothing
    ) -> Task:
        return await self._connection.run(self._requests.follow(task_id_of(task), timeout_s), progress)

    async def events(self, task: Task | str, *, timeout_s: float = WAIT_S) -> AsyncIterator[Task]:
        async with aclosing(self._connection.steps(self._requests.follow(task_id_of(task), timeout_s))) as steps:
            async for said in steps:
                if isinstance(said, Tell):
                    yield said.value

    async def cancel(self, task: Task | str) -> Task:
        return await self._connection.run(self._requests.cancel(task_id_of(task)))

    async def download(self, image: AvatarImage | str) -> bytes:
        return await self._connection.run(self._requests.download(image))


class AsyncFaceFinder:
    """`client.faces`"""

    def __init__(self, requests: Requests, connection: AsyncConnection) -> None:
        self._requests = requests
        self._connection = connection

    async def inspect(self, photo: Photo) -> Faces:
        return await self._connection.run(await asyncio.to_thread(self._requests.inspect, photo))


class AsyncApps:
    """`client.apps`"""

    def __init__(self, requests: Requests, connection: AsyncConnection) -> None:
        self._requests = requests
        self._connection = connection

    async def list(self) -> tuple[AppInfo, ...]:
        return await self._connection.run(self._requests.apps())

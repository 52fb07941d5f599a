"""The client for an event loop: the same methods, awaited."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Unpack

from serve_app.client.connection import AsyncConnection
from serve_app.client.requests import RETRIES, TIMEOUT_S, WAIT_S, Requests, Resource
from serve_app.client.values import AppInfo, AvatarImage, AvatarParameters, Faces, Photo, Task, Verdict, task_id_of


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


class AsyncAvatars(Resource[AsyncConnection]):
    """`client.avatars`: the methods of `serve_app.client.blocking.Avatars`."""

    async def create(self, photo: Photo, **parameters: Unpack[AvatarParameters]) -> Task:
        # In a thread, because it reads the photo's file.
        return await self._connection.run(await asyncio.to_thread(self._requests.create, photo, parameters))

    async def submit(self, photo: Photo, **parameters: Unpack[AvatarParameters]) -> Task:
        return await self._connection.run(await asyncio.to_thread(self._requests.submit, photo, parameters))

    async def get(self, task_id: str) -> Task:
        return await self._connection.run(self._requests.get(task_id))

    async def wait(
        self, task: Task | str, *, timeout_s: float = WAIT_S, progress: Callable[[Task], None] = lambda _task: None
    ) -> Task:
        return await self._connection.run(self._requests.follow(task_id_of(task), timeout_s), progress)

    async def events(self, task: Task | str, *, timeout_s: float = WAIT_S) -> AsyncIterator[Task]:
        async with aclosing(self._connection.values(self._requests.follow(task_id_of(task), timeout_s))) as states:
            async for state in states:
                yield state

    async def cancel(self, task: Task | str) -> Task:
        return await self._connection.run(self._requests.cancel(task_id_of(task)))

    async def download(self, image: AvatarImage | str) -> bytes:
        return await self._connection.run(self._requests.download(image))


class AsyncFaceFinder(Resource[AsyncConnection]):
    """`client.faces`"""

    async def inspect(self, photo: Photo) -> Faces:
        return await self._connection.run(await asyncio.to_thread(self._requests.inspect, photo))


class AsyncApps(Resource[AsyncConnection]):
    """`client.apps`"""

    async def list(self) -> tuple[AppInfo, ...]:
        return await self._connection.run(self._requests.apps())

"""Fetches of photos from real servers on loopback."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver

from serve_app.errors import ImageUrlError
from serve_app.photos.fetch import PhotoFetcher
from serve_app.photos.source import PhotoSource
from serve_app.photos.urls import FetchSettings

LOOPBACK = FetchSettings(allow_private=True, max_bytes=100_000)
PHOTO = bytes(range(256)) * 300  # the fetcher does not look into it

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def http_server(handler: Handler):
    """The port of a real server that answers every path with `handler`."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(answer: bytes):
    """The port of a server on every address that sends `answer`, whatever it is asked, and its connections so far."""
    connections: list[str] = []

    async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer.get_extra_info("sockname")[0])
        writer.write(answer)
        writer.close()

    async with AsyncExitStack() as servers:
        v4 = await servers.enter_async_context(await asyncio.start_server(connected, "0.0.0.0", 0))
        port = v4.sockets[0].getsockname()[1]
        with suppress(OSError):  # a machine without IPv6
            await servers.enter_async_context(await asyncio.start_server(connected, "::", port))
        yield port, connections


async def fetched(url: str, limits: FetchSettings = LOOPBACK, resolver: AbstractResolver | None = None) -> bytes:
    return await PhotoFetcher(limits, None if resolver is None else lambda _owner: resolver).fetch(PhotoSource(url))


async def refusal(
    url: str, limits: FetchSettings = LOOPBACK, resolver: AbstractResolver | None = None
) -> ImageUrlError:
    with pytest.raises(ImageUrlError) as caught:
        await fetched(url, limits, resolver)
    return caught.value


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def fetch_from(handler: Handler, limits: FetchSettings = LOOPBACK, path: str = "/photo") -> bytes:
    async def main() -> bytes:
        async with http_server(handler) as port:
            return await fetched(f"http://127.0.0.1:{port}{path}", limits)

    return run(main())


def reason_from(handler: Handler, limits: FetchSettings = LOOPBACK, path: str = "/photo") -> str:
    with pytest.raises(ImageUrlError) as caught:
        fetch_from(handler, limits, path)
    return caught.value.data["reason"]


async def photo(_: web.Request) -> web.Response:
    return web.Response(body=PHOTO, content_type="image/jpeg")


async def forever(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError

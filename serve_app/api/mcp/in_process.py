"""Requests of a client to an application in its own process: no network, and answers that stream as they come."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
from starlette.types import ASGIApp, Message

END: Message = {"type": "http.response.body", "body": b"", "more_body": False}


class AppTransport(httpx.AsyncBaseTransport):
    """Sends requests to an address, and below its path, to an ASGI application, and all others to `outside`.

    That is shared, because its TLS context takes longer to make than a request does to answer: closing leaves it open.
    """

    def __init__(self, app: ASGIApp, address: str, outside: httpx.AsyncBaseTransport) -> None:
        self._app = app
        self._address = httpx.URL(address)
        self._outside = outside

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises: httpx.ReadError where the application ends without an answer."""
        if (request.url.scheme, request.url.netloc) != (self._address.scheme, self._address.netloc):
            return await self._outside.handle_async_request(request)
        exchange = Exchange(self._app, self._scope(request), await request.aread())
        try:
            head = await exchange.next_message()
        except BaseException:
            await exchange.aclose()
            raise
        if head["type"] != "http.response.start":
            await exchange.aclose()
            raise httpx.ReadError("the application gave no answer", request=request)
        return httpx.Response(head["status"], headers=head["headers"], stream=exchange)

    def _scope(self, request: httpx.Request) -> dict[str, Any]:
        below = self._address.path.rstrip("/")
        raw_path, _, query = request.url.raw_path.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "scheme": request.url.scheme,
            "path": request.url.path.removeprefix(below),
            "raw_path": raw_path.removeprefix(below.encode()),
            "query_string": query,
            "server": (request.url.host, request.url.port),
            "client": None,
            "root_path": "",
        }


class Exchange(httpx.AsyncByteStream):
    """One request at an application, and the body of its answer. Closing it is a client that leaves."""

    def __init__(self, app: ASGIApp, scope: dict[str, Any], body: bytes) -> None:
        self._requests: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._running = asyncio.create_task(self._run(app, scope))

    async def next_message(self) -> Message:
        """What the application sends next; END where it has ended."""
        return await self._messages.get()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._messages.get()
            more = message.get("more_body", False)
            yield message.get("body", b"")

    async def aclose(self) -> None:
        """Stop the application's work on it."""
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._messages.put)
        finally:
            self._messages.put_nowait(END)

    async def _receive(self) -> Message:
        if self._requests:
            return self._requests.pop()
        await asyncio.Event().wait()  # a client that stays, until this is cancelled
        raise AssertionError("nobody sets the event")

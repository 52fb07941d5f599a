"""Runs flows over HTTP: one connection that blocks, and one for an event loop. Neither makes decisions."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import httpx

import serve_app
from serve_app.client.addresses import is_this_machine
from serve_app.client.errors import ClientSettingsError
from serve_app.client.exchange import Answer, Body, Flow, Outcome, Read, Report, Send, Sleep

CONNECT_TIMEOUT_S = 10
MIN_TIMEOUT_S = 0.001
EVENT_STREAM = "text/event-stream"
JSON_LINES = "application/x-ndjson"

T = TypeVar("T")
Pool = TypeVar("Pool", httpx.Client, httpx.AsyncClient)


class Connection:
    """To a service and to the hosts of its results; `sleep` waits between retries."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._pools: dict[bool, httpx.Client] = {}

    def close(self) -> None:
        """Close all connections; nothing can be sent afterwards."""
        for pool in self._pools.values():
            pool.close()

    def run(self, flow: Flow[T], progress: Callable[[T], None] = lambda _value: None) -> T:
        """The result of a flow; `progress` is called with each value it yields, the result included."""
        for value in self.values(flow):
            progress(value)
        return value

    def values(self, flow: Flow[T]) -> Iterator[T]:
        """The values that a flow reports, then its result."""
        received: Any = None
        with _Response() as response:
            while True:
                try:
                    step = flow.send(received)
                except StopIteration as end:
                    yield end.value
                    return
                received = None
                match step:
                    case Report():
                        yield step.value
                    case Sleep():
                        self._sleep(step.seconds)
                    case Send():
                        received = response.open(_pool_for(step, self._pools, httpx.Client), step)
                    case Read():
                        received = response.read()


class AsyncConnection:
    """The same on an event loop."""

    def __init__(
        self,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`transport` sends requests in place of httpx's own."""
        self._sleep = sleep
        self._make_pool = partial(httpx.AsyncClient, transport=transport)
        self._pools: dict[bool, httpx.AsyncClient] = {}

    async def close(self) -> None:
        """Close all connections; nothing can be sent afterwards."""
        for pool in self._pools.values():
            await pool.aclose()

    async def run(self, flow: Flow[T], progress: Callable[[T], None] = lambda _value: None) -> T:
        """The result of a flow; `progress` is called on the event loop with each value, the result included."""
        async with contextlib.aclosing(self.values(flow)) as values:
            async for value in values:
                progress(value)
        return value

    async def values(self, flow: Flow[T]) -> AsyncGenerator[T, None]:
        """The values that a flow reports, then its result. Use `aclosing` to leave early: a response may be open."""
        received: Any = None
        async with _AsyncResponse() as response:
            while True:
                try:
                    step = flow.send(received)
                except StopIteration as end:
                    yield end.value
                    return
                received = None
                match step:
                    case Report():
                        yield step.value
                    case Sleep():
                        await self._sleep(step.seconds)
                    case Send():
                        received = await response.open(_pool_for(step, self._pools, self._make_pool), step)
                    case Read():
                        received = await response.read()


class _Response(contextlib.ExitStack):
    """The response that a flow is reading; the next one closes it."""

    def open(self, pool: httpx.Client, step: Send) -> Outcome:
        """Send a request; its whole answer, the head of one that streams, or the error of the connection."""
        self.close()
        try:
            response = self.enter_context(pool.stream(**_request(step)))
            self._chunks = response.iter_bytes()
            if _is_open_stream(step, response):
                return Answer(response.status_code, response.headers, b"")
            body = Body(response, step)
            for chunk in self._chunks:
                body.add(chunk)
        except httpx.RequestError as error:
            self.close()
            return error
        return body.answer()

    def read(self) -> bytes | httpx.RequestError | None:
        """The next part of an answer that streams; None at its end."""
        try:
            return next(self._chunks, None)
        except httpx.RequestError as error:
            return error


class _AsyncResponse(contextlib.AsyncExitStack):
    async def open(self, pool: httpx.AsyncClient, step: Send) -> Outcome:
        """As `_Response.open`."""
        await self.aclose()
        try:
            response = await self.enter_async_context(pool.stream(**_request(step)))
            self._chunks = response.aiter_bytes()
            if _is_open_stream(step, response):
                return Answer(response.status_code, response.headers, b"")
            body = Body(response, step)
            async for chunk in self._chunks:
                body.add(chunk)
        except httpx.RequestError as error:
            await self.aclose()
            return error
        return body.answer()

    async def read(self) -> bytes | httpx.RequestError | None:
        """As `_Response.read`."""
        try:
            return await anext(self._chunks, None)
        except httpx.RequestError as error:
            return error


def _is_open_stream(step: Send, response: httpx.Response) -> bool:
    """Whether the flow reads this response itself, part by part."""
    content_type = response.headers.get("content-type", "")
    return step.streams and response.status_code == 200 and content_type.startswith((EVENT_STREAM, JSON_LINES))


def _pool_for(step: Send, pools: dict[bool, Pool], make: Callable[..., Pool]) -> Pool:
    """The pool for a call: the proxy of the environment is used for other hosts, never for this machine.

    Raises: ClientSettingsError.
    """
    by_environment = not is_this_machine(step.call.url.host)
    if by_environment not in pools:
        try:
            pools[by_environment] = make(trust_env=by_environment)
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise ClientSettingsError(f"the proxy that the environment names cannot be used: {error}") from error
    return pools[by_environment]


def _request(step: Send) -> dict[str, Any]:
    """The arguments of `httpx.Client.stream`."""
    call, timeout_s = step.call, max(step.deadline - time.monotonic(), MIN_TIMEOUT_S)
    return {
        "method": call.method,
        "url": call.url,
        "headers": {"User-Agent": f"face-avatar/{serve_app.__version__}", **call.headers},
        "content": call.content,
        "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
    }

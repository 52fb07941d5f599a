"""Carries plans out over HTTP: one connection that waits, and one for an event loop. Neither decides anything."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx

import serve_app
from serve_app.client.addresses import is_this_machine
from serve_app.client.errors import ClientSettingsError
from serve_app.client.exchange import Answer, Body, Call, Open, Outcome, Plan, Read, Send, Sleep, Tell

CONNECT_TIMEOUT_S = 10
LEAST_S = 0.001
EVENT_STREAM = "text/event-stream"

T = TypeVar("T")
Heard = Callable[[Any], None]
"""Is told what a plan tells on its way."""


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """What a plan came to; comes after all that it told."""

    value: T


def nothing(_told: Any) -> None:
    """Hears what a plan tells, and does not care."""


class Connection:
    """To a service and to wherever its results lie; `sleep` is how it waits between repeats."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._pools: dict[bool, httpx.Client] = {}

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    def run(self, plan: Plan[T], heard: Heard = nothing) -> T:
        for said in self.steps(plan):
            if isinstance(said, Done):
                return said.value
            heard(said.value)
        raise AssertionError("a plan ends with what it came to")

    def steps(self, plan: Plan[T]) -> Iterator[Tell | Done[T]]:
        """What the plan tells, as it comes, and last what it came to."""
        came: Any = None
        with _Stream() as stream:
            while True:
                try:
                    step = plan.send(came)
                except StopIteration as end:
                    yield Done(end.value)
                    return
                came = None
                match step:
                    case Tell():
                        yield step
                    case Sleep():
                        self._sleep(step.seconds)
                    case Send():
                        came = self._send(step)
                    case Open():
                        came = stream.open(self._pool(step.call.url), step)
                    case Read():
                        came = stream.read()

    def _send(self, step: Send) -> Outcome:
        pool = self._pool(step.call.url)
        try:
            with pool.stream(**_request(step.call, _left(step.deadline))) as response:
                return _whole(response, Body(response, step.call.max_bytes, step.deadline))
        except httpx.RequestError as error:
            return error

    def _pool(self, url: httpx.URL) -> httpx.Client:
        """Connections to that host: a proxy of the environment leads to others, never to this machine's own."""
        by_environment = not is_this_machine(url.host)
        if by_environment not in self._pools:
            with _proxy_errors():
                self._pools[by_environment] = httpx.Client(trust_env=by_environment)
        return self._pools[by_environment]


class AsyncConnection:
    """The same on an event loop."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._pools: dict[bool, httpx.AsyncClient] = {}

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()

    async def run(self, plan: Plan[T], heard: Heard = nothing) -> T:
        async with contextlib.aclosing(self.steps(plan)) as steps:
            async for said in steps:
                if isinstance(said, Done):
                    return said.value
                heard(said.value)
        raise AssertionError("a plan ends with what it came to")

    async def steps(self, plan: Plan[T]) -> AsyncGenerator[Tell | Done[T], None]:
        came: Any = None
        async with _AsyncStream() as stream:
            while True:
                try:
                    step = plan.send(came)
                except StopIteration as end:
                    yield Done(end.value)
                    return
                came = None
                match step:
                    case Tell():
                        yield step
                    case Sleep():
                        await self._sleep(step.seconds)
                    case Send():
                        came = await self._send(step)
                    case Open():
                        came = await stream.open(self._pool(step.call.url), step)
                    case Read():
                        came = await stream.read()

    async def _send(self, step: Send) -> Outcome:
        pool = self._pool(step.call.url)
        try:
            async with pool.stream(**_request(step.call, _left(step.deadline))) as response:
                return await _async_whole(response, Body(response, step.call.max_bytes, step.deadline))
        except httpx.RequestError as error:
            return error

    def _pool(self, url: httpx.URL) -> httpx.AsyncClient:
        by_environment = not is_this_machine(url.host)
        if by_environment not in self._pools:
            with _proxy_errors():
                self._pools[by_environment] = httpx.AsyncClient(trust_env=by_environment)
        return self._pools[by_environment]


class _Stream(contextlib.ExitStack):
    """The one answer of a plan that goes on."""

    def open(self, pool: httpx.Client, step: Open) -> Outcome:
        self.close()
        try:
            response = self.enter_context(pool.stream(**_request(step.call, step.silence_s)))
            if not _goes_on(response):
                return _whole(response, Body(response, step.call.max_bytes, time.monotonic() + step.silence_s))
        except httpx.RequestError as error:
            return error
        self._chunks = response.iter_bytes()
        return Answer(response.status_code, response.headers, b"")

    def read(self) -> bytes | httpx.RequestError | None:
        try:
            return next(self._chunks, None)
        except httpx.RequestError as error:
            return error


class _AsyncStream(contextlib.AsyncExitStack):
    async def open(self, pool: httpx.AsyncClient, step: Open) -> Outcome:
        await self.aclose()
        try:
            response = await self.enter_async_context(pool.stream(**_request(step.call, step.silence_s)))
            if not _goes_on(response):
                body = Body(response, step.call.max_bytes, time.monotonic() + step.silence_s)
                return await _async_whole(response, body)
        except httpx.RequestError as error:
            return error
        self._chunks = response.aiter_bytes()
        return Answer(response.status_code, response.headers, b"")

    async def read(self) -> bytes | httpx.RequestError | None:
        try:
            return await anext(self._chunks, None)
        except httpx.RequestError as error:
            return error


def _whole(response: httpx.Response, body: Body) -> Answer:
    for chunk in response.iter_bytes():
        body.add(chunk)
    return body.answer()


async def _async_whole(response: httpx.Response, body: Body) -> Answer:
    async for chunk in response.aiter_bytes():
        body.add(chunk)
    return body.answer()


def _goes_on(response: httpx.Response) -> bool:
    return response.status_code == 200 and response.headers.get("content-type", "").startswith(EVENT_STREAM)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), LEAST_S)


def _request(call: Call, timeout_s: float) -> dict[str, Any]:
    """What httpx wants to know of a call."""
    return {
        "method": call.method,
        "url": call.url,
        "headers": {"User-Agent": f"face-avatar/{serve_app.__version__}", **call.headers},
        "content": call.content,
        "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
    }


@contextlib.contextmanager
def _proxy_errors() -> Iterator[None]:
    try:
        yield
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise ClientSettingsError(f"the proxy that the environment names cannot be used: {error}") from error

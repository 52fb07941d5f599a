"""What the proxy's protocol takes from clients, over real sockets, on plain uvicorn."""

import asyncio
import contextlib
import json
import socket
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from http.client import HTTPResponse
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve_app import http_protocol
from serve_app.http_protocol import LimitedProtocol, Limits, UnsupportedServerError, install
from tests.support.envelopes import KEYS
from tests.support.polling import poll

LIMITS = Limits()
GET = b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = b"GET /events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
TIMEOUT_S = 20


class Application:
    """Reads all that comes, whether or not a route wants it, as Serve's proxy does."""

    def __init__(self) -> None:
        self.release = threading.Event()  # lets `/held` answer
        self.held = 0
        self.received: list[int] = []  # bytes of each body
        self.app = Starlette(
            routes=[
                Route("/ok", self._ok),
                Route("/echo", self._echo, methods=["POST"]),
                Route("/early", self._early, methods=["GET", "POST"]),
                Route("/held", self._held, methods=["GET", "POST"]),
                Route("/large", self._large),
                Route("/events", self._events),
                WebSocketRoute("/socket", self._socket),
            ]
        )

    async def _ok(self, _request: Request) -> Response:
        return PlainTextResponse("fine")

    async def _early(self, _request: Request) -> Response:
        return PlainTextResponse("I have seen enough")

    async def _echo(self, request: Request) -> Response:
        return PlainTextResponse(f"{len(await request.body())} {len(request.headers)}")

    async def _held(self, request: Request) -> Response:
        self.held += 1
        reading = asyncio.create_task(self._read(request))
        await asyncio.to_thread(self.release.wait)
        await reading
        return PlainTextResponse("held")

    async def _large(self, _request: Request) -> Response:
        return PlainTextResponse("x" * 50_000_000)

    async def _events(self, request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            yield b"first\n\n"
            await self._read(request)
            await asyncio.Event().wait()

        return StreamingResponse(events(), media_type="text/event-stream")

    async def _read(self, request: Request) -> None:
        self.received.append(0)
        while (message := await request.receive())["type"] == "http.request":
            self.received[-1] += len(message["body"])
            if not message["more_body"]:
                return

    async def _socket(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()


class Server:
    """uvicorn in a thread of this process."""

    def __init__(self, limits: Limits, keep_alive_s: int) -> None:
        self.application = Application()
        protocol = type("Protocol", (LimitedProtocol,), {"limits": limits})
        self.config = uvicorn.Config(
            self.application.app,
            port=0,
            http=protocol,
            lifespan="off",
            log_config=None,
            timeout_keep_alive=keep_alive_s,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(self.config)
        self._thread = threading.Thread(target=self._server.run)

    @property
    def connections(self) -> int:
        return len(self._server.server_state.connections)

    def start(self) -> None:
        self._thread.start()
        poll(lambda: self._server.started)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self.application.release.set()
        self._server.should_exit = True
        self._thread.join()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S)

    def exchange(self, *parts: bytes) -> bytes:
        """All that the server says to these bytes, until it closes."""
        with self.connect() as client:
            send(client, *parts)
            return read_all(client)

    def serves(self) -> bool:
        with self.connect() as client:
            client.sendall(GET)
            return answer_on(client)[:2] == (200, b"fine")


Start = Callable[..., Server]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers; their limits may differ from the proxy's."""
    with contextlib.ExitStack() as running:

        def start(keep_alive_s: int = 75, **changes: Any) -> Server:
            server = Server(replace(LIMITS, **changes), keep_alive_s)
            server.start()
            running.callback(server.stop)
            return server

        yield start


def send(client: socket.socket, *parts: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        for part in parts:
            client.sendall(part)


def read_all(client: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65536):
            found += part
    return found


def read_until(client: socket.socket, last: bytes) -> bytes:
    found = b""
    while last not in found:
        found += client.recv(65536)
    return found


def answer_on(client: socket.socket) -> tuple[int, bytes, dict[str, str]]:
    """The next answer on a connection: status, body, headers."""
    response = HTTPResponse(client)
    response.begin()
    return response.status, response.read(), {name.lower(): value for name, value in response.getheaders()}


def refusal(said: bytes, status: int, error: str) -> str:
    """The message of a refusal, which is the last thing that was said."""
    head, _, body = said.rpartition(b"\r\n\r\n")
    assert head.rpartition(b"HTTP/1.1 ")[2].startswith(str(status).encode()), said
    assert b"connection: close" in head.lower()
    assert b"x-request-id: " in head.lower()
    envelope = json.loads(body)
    assert envelope.keys() == KEYS
    assert (envelope["error"], envelope["status"]) == (error, "FAILED")
    return str(envelope["error_data"]["message"])


# Heads


@pytest.mark.parametrize(
    "head",
    [
        [b"GET /ok HTTP/1.1\r\n"] + [b"name: value\r\n"] * 2_000_000,
        [b"GET /ok HTTP/1.1\r\nname: "] + [b"x" * 1000] * 60_000,
        [b"GET /"] + [b"x" * 1000] * 60_000,
        [b"\r\n" * 500] * 60_000,
    ],
    ids=["lines", "line", "path", "blank lines"],
)
def test_a_head_that_is_too_large_is_refused_and_takes_no_memory(start: Start, head: list[bytes]) -> None:
    server = start()
    parts = [b"".join(head[first : first + 50]) for first in range(0, len(head), 50)]
    tracemalloc.start()
    try:
        said = server.exchange(*parts)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    refusal(said, 431, "Request Too Large")
    assert peak_bytes < 4_000_000
    assert server.serves()


@pytest.mark.parametrize(("size", "status"), [(LIMITS.head_bytes, 200), (LIMITS.head_bytes + 1, 431)])
def test_a_head_may_be_as_large_as_the_limit_and_not_a_byte_larger(start: Start, size: int, status: int) -> None:
    head = b"GET /ok HTTP/1.1\r\nConnection: close\r\nname: %b\r\n\r\n"
    head %= b"x" * (size - len(head % b""))
    assert start().exchange(head).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(("count", "status"), [(LIMITS.headers, 200), (LIMITS.headers + 1, 431)])
def test_a_head_has_a_limited_number_of_headers(start: Start, count: int, status: int) -> None:
    said = start().exchange(b"GET /ok HTTP/1.1\r\nConnection: close\r\n" + b"a:\r\n" * (count - 1) + b"\r\n")
    assert said.startswith(f"HTTP/1.1 {status} ".encode())


def test_a_large_body_right_behind_its_head_is_no_large_head(start: Start) -> None:
    with start().connect() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000)
        assert answer_on(client)[:2] == (200, b"1000000 2")
        client.sendall(GET)
        assert answer_on(client)[:2] == (200, b"fine")


def test_the_second_head_of_a_connection_has_the_same_limit(start: Start) -> None:
    with start().connect() as client:
        client.sendall(GET)
        assert answer_on(client)[:2] == (200, b"fine")
        send(client, b"GET /ok HTTP/1.1\r\nname: ", b"x" * LIMITS.head_bytes)
        refusal(read_all(client), 431, "Request Too Large")


def test_a_head_that_arrives_a_byte_at_a_time_is_given_up(start: Start) -> None:
    with start(head_s=0.5).connect() as client:
        client.settimeout(0.05)
        said = b""
        for byte in b"GET /ok HTTP/1.1\r\nname: " + b"x" * 1000:
            send(client, bytes([byte]))
            with contextlib.suppress(TimeoutError):
                said = client.recv(65536)
                break
        client.settimeout(TIMEOUT_S)
        refusal(said + read_all(client), 408, "Timeout")


def test_a_connection_that_says_nothing_is_closed(start: Start) -> None:
    server = start(head_s=0.2)
    assert server.exchange() == b""
    assert server.exchange(b"\r\n") == b""
    poll(lambda: server.connections == 0)


def test_an_idle_connection_is_kept_as_long_as_uvicorn_is_told(start: Start) -> None:
    server = start(head_s=0.2, keep_alive_s=3)
    with server.connect() as client:
        client.sendall(GET)
        assert answer_on(client)[0] == 200
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):  # longer than a head may take
            client.recv(1)
        client.settimeout(TIMEOUT_S)
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    "nonsense", [b"\x16\x03\x01\x02\x00", b"HELO me\r\n\r\n", b"GET ok HTTP/1.1\r\n\r\n", b"\0" * 9]
)
def test_what_is_not_http_is_told_so(start: Start, nonsense: bytes) -> None:
    server = start()
    refusal(server.exchange(nonsense), 400, "Invalid Request")
    assert server.serves()


def test_http_1_0_is_answered_and_closed(start: Start) -> None:
    said = start().exchange(b"GET /ok HTTP/1.0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 ")
    assert said.endswith(b"fine")


def test_a_websocket_still_opens(start: Start) -> None:
    with start().connect() as client:
        client.sendall(b"GET /socket HTTP/1.1\r\nHost: x\r\n" + UPGRADE)
        said = read_until(client, b"hello")
    assert said.startswith(b"HTTP/1.1 101 ")


# Requests sent ahead


def test_requests_sent_ahead_are_answered_in_order(start: Start) -> None:
    last = b"POST /echo HTTP/1.1\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"
    said = start().exchange(GET * 3 + CHUNKED + b"4\r\nabcd\r\n0\r\n\r\n" + GET + last)
    bodies = [answer.partition(b"\r\n\r\n")[2] for answer in said.split(b"HTTP/1.1 200 ")[1:]]
    assert bodies == [b"fine"] * 3 + [b"4 2", b"fine", b"3 2"]


@pytest.mark.parametrize(
    ("second", "status", "error"),
    [
        (b"GET /ok HTTP/1.1\r\nname: " + b"x" * 200_000, 431, "Request Too Large"),
        (b"\0\0\0", 400, "Invalid Request"),
    ],
)
def test_an_answer_under_way_is_given_before_the_next_request_is_refused(
    start: Start, second: bytes, status: int, error: str
) -> None:
    server = start()
    with server.connect() as client:
        send(client, b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n", second)
        poll(lambda: server.application.held)
        server.application.release.set()
        said = read_all(client)
    assert said.startswith(b"HTTP/1.1 200 ")
    refusal(said, status, error)


def test_half_a_head_sent_ahead_has_its_time_when_the_answer_is_given(start: Start) -> None:
    server = start(head_s=0.2)
    with server.connect() as client:
        send(client, b"GET /held HTTP/1.1\r\nHost: x\r\n\r\nGET /ok")
        poll(lambda: server.application.held)
        server.application.release.set()
        said = read_all(client)
    assert said.startswith(b"HTTP/1.1 200 ")
    refusal(said, 408, "Timeout")


def test_only_few_requests_may_be_sent_ahead(start: Start) -> None:
    server = start(pipelined=2)
    with server.connect() as client:
        send(client, b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n", GET * 1000)
        poll(lambda: server.application.held)
        server.application.release.set()
        said = read_all(client)
    assert said.count(b"HTTP/1.1 200 ") == 3
    refusal(said, 400, "Invalid Request")


# Connections


def test_connections_that_wait_for_nothing_give_way_to_new_ones(start: Start) -> None:
    server = start(connections=5)
    with contextlib.ExitStack() as opened:
        silent = [opened.enter_context(server.connect()) for _ in range(20)]
        assert server.serves()
        poll(lambda: server.connections <= 5)
        assert read_all(silent[0]) == b""  # the first to come is the first to go


def test_a_connection_beyond_the_requests_under_way_is_refused(start: Start) -> None:
    server = start(connections=3)
    with contextlib.ExitStack() as opened:
        busy = [opened.enter_context(server.connect()) for _ in range(3)]
        for client in busy:
            client.sendall(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        poll(lambda: server.application.held == 3)
        said = server.exchange(GET)
        refusal(said, 503, "Overloaded")
        assert b"retry-after: 5" in said.lower()
        server.application.release.set()
        assert [answer_on(client)[1] for client in busy] == [b"held"] * 3
        assert server.serves()


def test_a_client_that_does_not_read_its_answer_is_cut_off(start: Start) -> None:
    server = start(stall_s=0.3)
    with server.connect() as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        poll(lambda: server.connections == 1)
        poll(lambda: server.connections == 0)
        assert len(read_all(client)) < 50_000_000


# Bodies


def chunks(size: int, count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b"%x\r\n%b\r\n" % (size, b"x" * size)


def test_a_body_that_no_route_reads_is_cut(start: Start) -> None:
    server = start()
    with server.connect() as client:
        client.sendall(EVENTS)
        read_until(client, b"first")
        send(client, *chunks(10_000, 1_000))
        assert b"413" not in read_all(client)  # amid the answer to another question
    assert server.application.received[0] < 3 * LIMITS.head_bytes
    poll(lambda: server.connections == 0)


def test_a_body_before_the_answer_is_refused(start: Start) -> None:
    server = start()
    said = server.exchange(b"GET /held HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n", b"x" * 9_000_000)
    assert str(LIMITS.head_bytes) in refusal(said, 413, "Request Too Large")


def test_no_body_is_larger_than_any_that_an_application_takes(start: Start) -> None:
    server = start(body_bytes=1_000_000)
    said = server.exchange(CHUNKED.replace(b"/echo", b"/held"), *chunks(10_000, 1_000))
    refusal(said, 413, "Request Too Large")
    assert server.application.received[0] <= 1_000_000 + LIMITS.head_bytes


@pytest.mark.parametrize("path", [b"/ok", b"/early"])
def test_what_follows_an_answer_is_read_only_for_a_while(start: Start, path: bytes) -> None:
    server = start(linger_s=0.2)
    request = b"GET %b HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n" % path
    with server.connect() as client:
        client.sendall(request)
        assert answer_on(client)[0] == 200
        send(client, *[b"x" * 100_000] * 900)
        assert read_all(client) == b""
    poll(lambda: server.connections == 0)


def test_a_body_that_stalls_after_its_answer_is_given_up(start: Start) -> None:
    server = start(head_s=0.2)
    with server.connect() as client:
        client.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx")
        assert answer_on(client)[0] == 200
        assert read_all(client) == b""


def test_a_connection_goes_on_when_the_rest_of_a_body_comes_after_its_answer(start: Start) -> None:
    server = start(head_s=10, keep_alive_s=1)
    with server.connect() as client:
        client.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx")
        assert answer_on(client)[0] == 200
        client.sendall(b"x" * 99)
        client.sendall(GET)
        assert answer_on(client)[:2] == (200, b"fine")
        assert client.recv(1) == b""  # and is closed like any other that idles


@pytest.mark.parametrize(
    "rest",
    [
        [b"0\r\n"] + [b"name: value\r\n" * 100] * 20_000,
        [b"0\r\nname: "] + [b"x" * 1000] * 60_000,
        [b"5;name="] + [b"x" * 1000] * 60_000,
    ],
    ids=["trailers", "a trailer", "a chunk extension"],
)
def test_what_surrounds_chunks_has_a_limit_too(start: Start, rest: list[bytes]) -> None:
    server = start()
    tracemalloc.start()
    try:
        said = server.exchange(CHUNKED, b"3\r\nabc\r\n", *rest)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    refusal(said, 431, "Request Too Large")
    assert peak_bytes < 4_000_000


def test_trailers_do_not_become_headers(start: Start) -> None:
    with start().connect() as client:
        client.sendall(CHUNKED + b"3;a=b\r\nabc\r\n0\r\nX-One: 1\r\nX-Two: 2\r\n\r\n")
        assert answer_on(client)[:2] == (200, b"3 2")


def test_a_broken_chunk_ends_the_request(start: Start) -> None:
    refusal(start().exchange(CHUNKED, b"3\r\nabc\r\nzz\r\n"), 400, "Invalid Request")


# Installation


def test_uvicorn_resolves_its_default_to_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)  # restored afterwards
    install()
    config = uvicorn.Config(Starlette(), lifespan="off", log_config=None)
    config.load()
    assert config.http_protocol_class is LimitedProtocol


def test_a_uvicorn_that_resolves_otherwise_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", "uvicorn.protocols.http.h11_impl:H11Protocol")
    with pytest.raises(UnsupportedServerError, match="another protocol"):
        install()


def test_a_uvicorn_without_a_method_that_is_overridden_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)
    former = type("Former", (asyncio.Protocol,), {name: None for name in vars(HttpToolsProtocol) if name != "on_body"})
    monkeypatch.setattr(http_protocol, "HttpToolsProtocol", former)
    with pytest.raises(UnsupportedServerError, match="it has no on_body"):
        install()

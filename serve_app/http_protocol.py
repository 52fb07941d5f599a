"""The HTTP protocol of Serve's proxy: uvicorn's, with limits on what a client may send before anybody knows who it is.

Ray passes uvicorn no limits, and httptools has none: heads and trailers grow without end, and a header line is copied
anew for every packet. Serve's proxy and replica read a body whether or not the application wants it. Middleware comes
too late for all that, so the limits are here, where bytes arrive. uvicorn finds the protocol by name (`install`).
"""

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NoReturn

from uvicorn import Config
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve_app.api.proxy_errors import proxy_error
from serve_app.api.settings import LARGEST_BODY_BYTES

WITH_BODY = b"POST"  # the one method whose bodies a route reads


class UnsupportedServerError(RuntimeError):
    """The installed uvicorn or Ray would serve requests without the limits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one proxy takes. Times are seconds."""

    # Each costs up to about 1 MB besides its body: heads, what the loop reads at once, and the answer's buffer.
    connections: int = 1000
    head_bytes: int = 64 * 1024  # also of trailers, and of bodies of other methods than POST
    headers: int = 256  # of one head; short ones take twenty times their bytes
    body_bytes: int = LARGEST_BODY_BYTES  # as sent, so with the framing of chunks
    pipelined: int = 16  # requests sent ahead of the answer to the first
    head_s: float = 10.0  # from the first byte of a head, or the connection, to the head's end
    linger_s: float = 2.0  # reading on after a refusal: closed at once, the client might never see the answer
    stall_s: float = 60.0  # a client takes nothing of its answer


class LimitedProtocol(HttpToolsProtocol):
    """One connection. A request beyond the limits is refused with an envelope, and the connection closed.

    A connection without a request under way always has a deadline: its own, or uvicorn's for keep-alive.
    """

    limits: ClassVar[Limits] = Limits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._part: Literal["head", "body"] | None = None  # of the message that has arrived in part
        self._bare_bytes = 0  # that came in a row without any of a body: head, chunk extensions, trailers
        self._body_bytes = 0
        self._max_body_bytes = 0
        self._idle_since: float | None = None  # None while a request is under way
        self._refusal: bytes | None = None  # what follows is not parsed
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected. Beyond `limits.connections` the idlest one is closed, or else this one gets a 503."""
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._set_deadline(self.limits.head_s)
        if len(self.connections) > self.limits.connections and not self._close_idlest():
            self._refuse(503, f"{self.limits.connections} requests are under way already.")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: its timers must not fire any more."""
        self._clear_deadline()
        self._clear_stall()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and count what it gets. After a refusal everything is dropped."""
        # By pieces of at most `head_bytes`: the parser does not say where in one a head or body began. So a head that
        # is sent ahead of an answer may take twice as much.
        while data and self._refusal is None and self.transport.get_protocol() is self:  # or a WebSocket has it
            room = self.limits.head_bytes - self._bare_bytes
            piece, data = data[:room], data[room:]
            self._bare_bytes += len(piece)
            self._body_bytes += len(piece)
            super().data_received(piece)
            self._check_size()
        if self._idle_since is not None and self._deadline is None and not self.transport.is_closing():
            # uvicorn ends its own deadline as soon as anything arrives.
            self._set_deadline(self.limits.head_s if self._part else self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """uvicorn's keep-alive time is over; the client has `stall_s` to take what is left of its answer."""
        self._close()

    def pause_writing(self) -> None:
        """The write buffer is full: the connection is aborted unless the client takes enough within `stall_s`."""
        super().pause_writing()
        self._stall = self._stall or self.loop.call_later(self.limits.stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The write buffer has room again, so the client does not stall."""
        super().resume_writing()
        self._clear_stall()

    # The parser

    def on_message_begin(self) -> None:
        """A request begins; refused with 400 behind `limits.pipelined` others. Raises: ValueError, for the parser."""
        self._part = "head"
        super().on_message_begin()
        if len(self.pipeline) >= self.limits.pipelined:
            self._refuse_at_once(400, f"At most {self.limits.pipelined} requests may be sent ahead of their answers.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, drop a trailer; 431 beyond `limits.headers`. Raises: ValueError, for the parser."""
        if self._part != "head":
            return  # trailers would be appended to the headers; no route reads any
        if len(self.headers) >= self.limits.headers:
            self._refuse_at_once(431, f"A request may have {self.limits.headers} headers.")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A request is under way, without a deadline here; other methods than POST may only have a small body."""
        super().on_headers_complete()
        self._part = "body"
        self._bare_bytes = self._body_bytes = 0
        has_body = self.parser.get_method() == WITH_BODY
        self._max_body_bytes = self.limits.body_bytes if has_body else self.limits.head_bytes
        self._idle_since = None
        self._clear_deadline()

    def on_body(self, body: bytes) -> None:
        """Bytes of a body without its chunk framing; they reset the count that `limits.head_bytes` bounds."""
        self._bare_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has arrived whole; what follows is another head."""
        self._part = None
        self._bare_bytes = 0
        self._clear_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer was sent: send the refusal that waited for it, or give a request that came in part its deadline."""
        super().on_response_complete()
        if self._is_answering() or self.transport.is_closing():
            return
        self._idle_since = self.loop.time()
        if self._refusal is not None:
            self._send_refusal(self._refusal)
        elif self._part is not None:
            self._set_deadline(self.limits.head_s)

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls it when the parser stops; does nothing where a refusal stopped it."""
        if self._refusal is None:
            self._refuse(400, msg)

    # Limits

    def _check_size(self) -> None:
        if self._refusal is not None:
            return
        if self._bare_bytes >= self.limits.head_bytes:
            self._refuse(431, f"Request line, headers and trailers may have {self.limits.head_bytes} bytes.")
        elif self._part == "body" and self._body_bytes > self._max_body_bytes:
            self._refuse(413, f"The body is larger than {self._max_body_bytes} bytes.")

    def _refuse(self, status: int, message: str) -> None:
        """Answer with an error, after the answers to earlier requests, and parse nothing more."""
        self._refusal = _as_bytes(status, message)
        if self._part == "body" and self.cycle.response_complete:
            self._send_refusal(b"")  # what nobody reads of a body that is answered
        elif self._part == "body" and (self.cycle.response_started or self.pipeline):
            self.transport.abort()  # its answer has begun, or waits for others
        elif self._part == "body":
            self.cycle.disconnected = True  # ends the request; its own answer is not sent any more
            self.cycle.message_event.set()
            self._send_refusal(self._refusal)
        elif not self._is_answering():
            self._send_refusal(self._refusal)

    def _refuse_at_once(self, status: int, message: str) -> NoReturn:
        """Refuse, and keep the parser from the rest of what it has. Raises: ValueError, which is for the parser."""
        self._refuse(status, message)
        raise ValueError(message)

    def _send_refusal(self, refusal: bytes) -> None:
        self.transport.write(refusal)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._idle_since = self.loop.time()
        self._clear_deadline()
        self._unset_keepalive_if_required()
        self._deadline = self.loop.call_later(self.limits.linger_s, self.transport.abort)

    def _close_idlest(self) -> bool:
        """Close the connection that has been without a request for longest; False where all others have one."""
        others = (other for other in self.connections if isinstance(other, LimitedProtocol) and other is not self)
        idle = [other for other in others if other._idle_since is not None and not other.transport.is_closing()]
        if idle:
            min(idle, key=lambda other: other._idle_since or 0.0)._close()
        return bool(idle)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.disconnected

    def _close(self) -> None:
        """Close the connection once the client has taken its answer."""
        self.transport.close()
        self._clear_deadline()
        self._clear_stall()
        self._stall = self.loop.call_later(self.limits.stall_s, self.transport.abort)

    def _set_deadline(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self._deadline = self.loop.call_later(seconds, self._on_deadline)

    def _on_deadline(self) -> None:
        if self._part == "head":
            self._refuse(408, f"The request line and headers did not arrive within {self.limits.head_s:g} s.")
        else:
            self._close()

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _clear_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def install() -> None:
    """Make servers that this process starts from now on use `LimitedProtocol`. Raises: UnsupportedServerError."""
    auto.AutoHTTPProtocol = LimitedProtocol  # what `Config(http="auto")`, the default, resolves to
    config = Config(proxy_error(404), log_config=None, lifespan="off")  # any ASGI application
    config.load()
    own = [name for name, member in vars(LimitedProtocol).items() if callable(member) and not name.startswith("_")]
    moved = [name for name in own if not hasattr(HttpToolsProtocol, name)]
    if config.http_protocol_class is not LimitedProtocol or moved:
        reason = f"it has no {', '.join(moved)}" if moved else "it resolves http='auto' to another protocol"
        raise UnsupportedServerError(f"The installed uvicorn would serve requests without limits: {reason}.")


def _as_bytes(status: int, message: str) -> bytes:
    """An HTTP/1.1 response that closes the connection."""
    answer = proxy_error(status, message=message)
    answer.headers["Connection"] = "close"
    headers = [b"%b: %b\r\n" % header for header in answer.raw_headers]
    return b"".join([STATUS_LINE[status], *headers, b"\r\n", answer.body])

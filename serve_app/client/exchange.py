"""One call, its answer and its retries, without I/O.

A flow is a generator, as httpx's auth flows are: it yields steps, is sent the outcome of each, and returns a result.
`connection` runs flows, blocking or on an event loop.
"""

import itertools
import random
import time
from collections.abc import Generator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
from pydantic_core import from_json

from serve_app.client.addresses import origin
from serve_app.client.errors import ConnectionFailedError, ServiceError, UnexpectedAnswerError

FIRST_PAUSE_S = 0.25
MAX_PAUSE_S = 60.0

# Errors that a retry may avoid; others, such as an unknown URL scheme or a broken encoding, would happen again.
TRANSIENT = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """An HTTP request; a retry sends it again unchanged."""

    method: str
    url: httpx.URL
    headers: dict[str, str]
    max_bytes: int  # of the answer
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; of an event stream its head only, with an empty body."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def envelope(self) -> dict[str, Any] | None:
        """None where the answer does not come from the service but, for example, from a proxy."""
        try:
            data = from_json(self.body)
        except ValueError:
            return None
        return data if isinstance(data, dict) and {"status", "error", "output"} <= data.keys() else None

    @property
    def retry_after_s(self) -> float | None:
        """RFC 9110, 10.2.3: a number of seconds, or a date. None where the header is missing or invalid."""
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdigit():
            return float(value[:9])
        try:
            return max(parsedate_to_datetime(value).timestamp() - time.time(), 0)
        except ValueError:
            return None

    def require_success(self) -> "Answer":
        """This answer. Raises: ServiceError unless its status is 2xx."""
        if 200 <= self.status < 300:
            return self
        envelope = self.envelope
        if envelope is None:
            error = f"HTTP {self.status} {httpx.codes.get_reason_phrase(self.status)}".strip()
            raise ServiceError(self.status, error, {"message": "the answer is not the service's own"})
        data = envelope.get("error_data")
        error_data = data if isinstance(data, dict) else {}
        raise ServiceError(self.status, str(envelope["error"]), error_data, str(envelope.get("task_id", "")))


Outcome = Answer | httpx.RequestError
"""The result of a call."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a call and read its answer: an Outcome. `deadline` is by the monotonic clock.

    With `streams`, a stream of events or lines is left to `Read`; the time left until `deadline` is then its longest
    silence.
    """

    call: Call
    deadline: float
    streams: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """Read more of the current stream: bytes, None at its end, or the error that ended it."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait so many seconds before the next step."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """Pass an intermediate value to the caller."""

    value: Any


Step = Send | Read | Sleep | Report
Flow = Generator[Step, Any, T]


class Body:
    """The body of an answer, limited in size and in total time: httpx only limits the time between two chunks."""

    def __init__(self, response: httpx.Response, step: Send) -> None:
        self._response = response
        self._step = step
        self._read = bytearray()

    def add(self, chunk: bytes) -> None:
        """Raises: UnexpectedAnswerError if it is too large; httpx.ReadTimeout if it takes too long."""
        self._read += chunk
        max_bytes = self._step.call.max_bytes
        if len(self._read) > max_bytes:
            raise UnexpectedAnswerError(f"{origin(self._response.url)} answered more than {max_bytes} bytes")
        if time.monotonic() > self._step.deadline:
            raise httpx.ReadTimeout("the answer takes too long", request=self._response.request)

    def answer(self) -> Answer:
        """The answer with the bytes added so far."""
        return Answer(self._response.status_code, self._response.headers, bytes(self._read))


def send_with_retries(call: Call, timeout_s: float, retries: int) -> Flow[Answer]:
    """The answer to a call, retried at most `retries` times after transient errors, all within `timeout_s`.

    An error that asks for more patience than that is one at once. Raises: ConnectionFailedError, UnexpectedAnswerError.
    """
    deadline = time.monotonic() + timeout_s
    for repeats in itertools.count():
        outcome: Outcome = yield Send(call, deadline)
        pause_s = repeat_pause_s(outcome, repeats)
        if pause_s is None or repeats >= retries:
            break
        if time.monotonic() + max(pause_s, _asked_s(outcome) or 0) >= deadline:
            break
        yield Sleep(pause_s)
    if isinstance(outcome, httpx.RequestError):
        raise ConnectionFailedError(origin(call.url), outcome) from outcome
    return outcome


def repeat_pause_s(outcome: Outcome, repeats: int) -> float | None:
    """Seconds until the next retry, None where one would not help; `repeats` is how many there have been."""
    transient = isinstance(outcome, TRANSIENT) if isinstance(outcome, httpx.RequestError) else _is_transient(outcome)
    if not transient:
        return None
    # Jitter: clients that failed at the same moment must not retry at the same moment.
    backoff_s = FIRST_PAUSE_S * 2.0 ** min(repeats, 16) * random.uniform(0.5, 1)
    return min(max(backoff_s, _asked_s(outcome) or 0), MAX_PAUSE_S)


def _asked_s(outcome: Outcome) -> float | None:
    """After how many seconds the service asks to retry; None where it does not say."""
    return None if isinstance(outcome, httpx.RequestError) else outcome.retry_after_s


def _is_transient(answer: Answer) -> bool:
    if answer.status == 429:
        return answer.retry_after_s is not None
    # A 504 of the service means that the request's deadline has passed; a proxy's, that the proxy stopped waiting.
    return answer.status in (502, 503) or (answer.status == 504 and answer.envelope is None)

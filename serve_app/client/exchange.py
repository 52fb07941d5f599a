"""One call and its answer, and what is done about an answer that did not come. Sends nothing itself.

A plan is a generator: it yields the steps that somebody with a connection takes for it, is sent what came of each, and
returns what all of them were for. `connection` carries plans out, waiting or on an event loop, and decides nothing.
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

# What the next try may not meet again; all else (a URL that no transport knows, a body in a broken encoding) it would.
PASSING = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """A request that may be sent more than once."""

    method: str
    url: httpx.URL
    headers: dict[str, str]
    max_bytes: int  # of the answer
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer; of one that goes on, its head."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def envelope(self) -> dict[str, Any] | None:
        """None where the answer is not the service's own, but that of a proxy or of something else."""
        try:
            data = from_json(self.body)
        except ValueError:
            return None
        return data if isinstance(data, dict) and {"status", "error", "output"} <= data.keys() else None

    @property
    def retry_after_s(self) -> float | None:
        """RFC 9110, 10.2.3: a number of seconds, or a date."""
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
        known = data if isinstance(data, dict) else {}
        raise ServiceError(self.status, str(envelope["error"]), known, str(envelope.get("task_id", "")))


Outcome = Answer | httpx.RequestError
"""What came of a call."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a call and read its answer to the end: an Outcome. `deadline` is by the monotonic clock."""

    call: Call
    deadline: float


@dataclass(frozen=True, slots=True)
class Open:
    """Send a call whose answer goes on: an Outcome, of a good answer its head. `silence_s` ends it."""

    call: Call
    silence_s: float


@dataclass(frozen=True, slots=True)
class Read:
    """Wait for more of the answer that was opened last: bytes, None after its end, or what broke it."""


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell whoever waits of something on the way."""

    value: Any


Step = Send | Open | Read | Sleep | Tell
Plan = Generator[Step, Any, T]


class Body:
    """An answer's body as it comes. The time-outs of a connection count from byte to byte; this looks at the whole."""

    def __init__(self, response: httpx.Response, max_bytes: int, deadline: float) -> None:
        self._response = response
        self._max_bytes = max_bytes
        self._deadline = deadline
        self._read = bytearray()

    def add(self, chunk: bytes) -> None:
        """Raises: UnexpectedAnswerError where it is too large; httpx.ReadTimeout where it takes too long."""
        self._read += chunk
        if len(self._read) > self._max_bytes:
            raise UnexpectedAnswerError(f"{origin(self._response.url)} answered more than {self._max_bytes} bytes")
        if time.monotonic() > self._deadline:
            raise httpx.ReadTimeout("the answer takes too long", request=self._response.request)

    def answer(self) -> Answer:
        return Answer(self._response.status_code, self._response.headers, bytes(self._read))


def answered(call: Call, timeout_s: float, retries: int) -> Plan[Answer]:
    """The answer to a call, repeated at most `retries` times while that may help, all within `timeout_s`.

    Raises: ConnectionFailedError, UnexpectedAnswerError.
    """
    deadline = time.monotonic() + timeout_s
    for repeats in itertools.count():
        outcome: Outcome = yield Send(call, deadline)
        pause_s = repeat_pause_s(outcome, repeats)
        if pause_s is None or repeats >= retries or time.monotonic() + pause_s >= deadline:
            break
        yield Sleep(pause_s)
    if isinstance(outcome, httpx.RequestError):
        raise ConnectionFailedError(origin(call.url), outcome) from outcome
    return outcome


def repeat_pause_s(outcome: Outcome, repeats: int) -> float | None:
    """Seconds until a call that went so may be repeated, None where that would not help; `repeats` came before."""
    if isinstance(outcome, httpx.RequestError):
        asked_s, passing = None, isinstance(outcome, PASSING)
    else:
        asked_s, passing = outcome.retry_after_s, _is_passing(outcome)
    if not passing:
        return None
    # Clients that failed at the same moment shall not come back at the same moment.
    backoff_s = FIRST_PAUSE_S * 2.0 ** min(repeats, 16) * random.uniform(0.5, 1)
    return min(max(backoff_s, asked_s or 0), MAX_PAUSE_S)


def _is_passing(answer: Answer) -> bool:
    if answer.status == 429:
        return answer.retry_after_s is not None
    # The service's own 504 says that the deadline of the request is over; a proxy's, that it did not wait long enough.
    return answer.status in (502, 503) or (answer.status == 504 and answer.envelope is None)

"""HTTP as a client of the service needs it: whole answers within a time, and repeats where they may help.

ClientError
├── ClientSettingsError      the URL, the token or the environment's proxy cannot be used
├── ConnectionFailedError    no whole answer came: refused, dropped or too slow
├── UnexpectedAnswerError    an answer that the contract does not know: no envelope, no image, too large
├── ServiceError             the service refused the request, or its task failed
├── PhotoFileError           (client)
└── NotFinishedError         (client)
"""

import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any

import httpx
from pydantic_core import from_json

import serve_app

CONNECT_TIMEOUT_S = 10
FIRST_PAUSE_S = 0.25
MAX_PAUSE_S = 60.0

# What the next try may not meet again; all else (a URL that no transport knows, a body in a broken encoding) it would.
PASSING = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)


class ClientError(Exception):
    """The avatars did not come; the message says why."""


class ClientSettingsError(ClientError):
    pass


class ConnectionFailedError(ClientError):
    """`reached` is false where not even a connection was made: nothing listens there, or no way leads there."""

    def __init__(self, url: httpx.URL, cause: httpx.RequestError) -> None:
        self.reached = not isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout)
        what = "gave no whole answer" if self.reached else "cannot be reached"
        super().__init__(f"{origin(url)} {what}: {str(cause) or type(cause).__name__}")


class UnexpectedAnswerError(ClientError):
    pass


class ServiceError(ClientError):
    """What the service said: `error` is its short stable name, `error_data` what was wrong and what would be accepted.

    `status_code` is that of the answer: 200 where a status read told of a task that had failed.
    """

    def __init__(self, status_code: int, error: str, error_data: dict[str, Any], task_id: str = "") -> None:
        self.status_code = status_code
        self.error = error
        self.error_data = error_data
        self.task_id = task_id
        super().__init__(_readable(error, error_data))


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer."""

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


@dataclass(frozen=True, slots=True)
class Call:
    """A request that may be sent more than once."""

    method: str
    url: httpx.URL
    headers: dict[str, str]
    max_bytes: int  # of the answer
    content: bytes | None = None


class Connection:
    """Sends calls to a service and to wherever its results lie; `sleep` is how it waits between repeats."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self._sleep = sleep
        self._pools: dict[bool, httpx.Client] = {}

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    def send(self, call: Call, timeout_s: float, retries: int) -> Answer:
        """The answer to a call, repeated at most `retries` times while that may help, all within `timeout_s`.

        Raises: ConnectionFailedError, UnexpectedAnswerError.
        """
        deadline = time.monotonic() + timeout_s
        for repeats in itertools.count():
            outcome = self._try(call, deadline)
            pause_s = repeat_pause_s(outcome, repeats)
            if pause_s is None or repeats >= retries or time.monotonic() + pause_s >= deadline:
                break
            self._sleep(pause_s)
        if isinstance(outcome, httpx.RequestError):
            raise ConnectionFailedError(call.url, outcome) from outcome
        return outcome

    def _try(self, call: Call, deadline: float) -> Answer | httpx.RequestError:
        """`deadline` by the monotonic clock. Raises: UnexpectedAnswerError where the answer is too large."""
        left_s = max(deadline - time.monotonic(), 0.001)
        timeout = httpx.Timeout(left_s, connect=min(left_s, CONNECT_TIMEOUT_S))
        headers = {"User-Agent": f"face-avatar/{serve_app.__version__}", **call.headers}
        pool = self._pool(call.url)
        try:
            with pool.stream(call.method, call.url, headers=headers, content=call.content, timeout=timeout) as response:
                return Answer(response.status_code, response.headers, _read(response, call.max_bytes, deadline))
        except httpx.RequestError as error:
            return error

    def _pool(self, url: httpx.URL) -> httpx.Client:
        """Connections to that host: a proxy of the environment leads to others, never to this machine's own."""
        by_environment = not _is_this_machine(url.host)
        if by_environment not in self._pools:
            try:
                self._pools[by_environment] = httpx.Client(trust_env=by_environment)
            except (ImportError, ValueError, httpx.InvalidURL) as error:
                raise ClientSettingsError(f"the proxy that the environment names cannot be used: {error}") from error
        return self._pools[by_environment]


def repeat_pause_s(outcome: Answer | httpx.RequestError, repeats: int) -> float | None:
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


def _read(response: httpx.Response, max_bytes: int, deadline: float) -> bytes:
    """The body. The time-outs of the connection count from byte to byte; this one looks at the whole."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > max_bytes:
            raise UnexpectedAnswerError(f"{origin(response.url)} answered more than {max_bytes} bytes")
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("the answer takes too long", request=response.request)
    return bytes(body)


def _readable(error: str, data: dict[str, Any]) -> str:
    """One line, and one more for each field that was wrong."""
    text = f"{error}: {data['message']}" if data.get("message") else error
    accepted = data.get("accepted")
    if isinstance(accepted, list):
        text += f" Accepted: {', '.join(map(str, accepted))}."
    if "request_id" in data:
        text += f" (request {data['request_id']})"
    fields = data.get("fields")
    problems = [entry for entry in fields if isinstance(entry, dict)] if isinstance(fields, list) else []
    return "\n".join([text, *(f"  {entry.get('field')}: {entry.get('message')}" for entry in problems)])


def web_address(text: str) -> httpx.URL | None:
    """None unless it is an http(s) URL that can be connected to."""
    try:
        url = httpx.URL(text)
        url.host.encode("idna")  # as the resolver will: a label that is too long fails there
    except (httpx.InvalidURL, ValueError):
        return None
    # A name in the URL would take the place of the token.
    usable = url.scheme in ("http", "https") and url.host and (url.port or 0) <= 65535 and not url.userinfo
    return url if usable else None


def origin(url: httpx.URL) -> str:
    """A URL for messages: without a path, a signature or a password."""
    return f"{url.scheme}://{url.netloc.decode()}"


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified

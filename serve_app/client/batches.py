"""The requests about batches and how their answers are read: flows that both clients run."""

import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from serve_app.client.addresses import origin
from serve_app.client.connection import JSON_LINES
from serve_app.client.errors import ConnectionFailedError, UnexpectedAnswerError
from serve_app.client.exchange import Answer, Call, Flow, Outcome, Read, Report, Send, Sleep, repeat_pause_s
from serve_app.client.requests import DEFAULT_APP, SILENCE_S, Requests
from serve_app.client.values import (
    AvatarParameters,
    Batch,
    BatchItem,
    BatchList,
    BatchOutput,
    BatchResult,
    Envelope,
    Task,
)

BATCHES = "/api/v1/batches"
BATCH, BATCHES_LISTED = TypeAdapter(BatchOutput), TypeAdapter(BatchList)
NO_BATCH = "the answer does not tell of a batch"
MAX_LINE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Line:
    index: int
    custom_id: str
    envelope: Envelope


LINE = TypeAdapter(_Line)


class BatchRequests:
    """The requests about batches of one token to one service."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def create(
        self,
        defaults: AvatarParameters | None,
        ref_id: str | None,
        metadata: dict[str, str] | None,
        webhook_url: str | None,
    ) -> Flow[Batch]:
        """Opens a batch; retries open no second one."""
        given = {name: value for name, value in (defaults or {}).items() if value is not None}
        body = {"defaults": {"app_id": DEFAULT_APP, **given}, "ref_id": ref_id, "metadata": metadata or {}}
        if webhook_url is not None:
            body["webhook_url"] = webhook_url
        call = self._requests.call("POST", BATCHES, body)
        call.headers["Idempotency-Key"] = str(uuid.uuid4())  # the same in every retry
        return self._batch(call)

    def add(self, batch_id: str, items: Iterable[BatchItem]) -> Flow[int]:
        """Adds requests, all or none; returns how many are new. Reads photos' files now. Raises: PhotoFileError."""
        lines = b"".join(json.dumps(item.fields()).encode() + b"\n" for item in items)
        call = self._requests.call("POST", f"{_path(batch_id)}/requests", content=lines, kind=JSON_LINES)
        return self._added(call)

    def close(self, batch_id: str) -> Flow[Batch]:
        """Says that all requests are added."""
        return self._batch(self._requests.call("POST", f"{_path(batch_id)}/close"))

    def get(self, batch_id: str) -> Flow[Batch]:
        """The state of a batch."""
        return self._batch(self._requests.call("GET", _path(batch_id)))

    def cancel(self, batch_id: str) -> Flow[Batch]:
        """Cancels what has not ended."""
        return self._batch(self._requests.call("DELETE", _path(batch_id)))

    def list(self) -> Flow[tuple[Batch, ...]]:
        """The newest batches of the token's owner."""
        listed = self._requests.output(self._requests.call("GET", BATCHES), BATCHES_LISTED, NO_BATCH)
        return (yield from listed).batches

    def results(self, batch_id: str, after: int) -> Flow[BatchResult | None]:
        """Reports the results after the one with this index, and returns none; goes on where a connection breaks off.

        The flow raises: ServiceError; ConnectionFailedError; UnexpectedAnswerError.
        """
        failures = 0
        while True:
            call = self._requests.call("GET", f"{_path(batch_id)}/results?after={after}", accept=JSON_LINES)
            outcome: Outcome = yield Send(call, time.monotonic() + SILENCE_S, streams=True)
            if isinstance(outcome, Answer) and outcome.status == 200:
                if not outcome.headers.get("content-type", "").startswith(JSON_LINES):
                    raise UnexpectedAnswerError(NO_BATCH)
                before = after
                after, broken = yield from self._lines(after)
                if broken is None:
                    return None
                outcome, failures = broken, failures if after == before else 0
            pause_s = repeat_pause_s(outcome, failures)
            if pause_s is None or failures >= self._requests.retries:
                if isinstance(outcome, httpx.RequestError):
                    raise ConnectionFailedError(origin(call.url), outcome) from outcome
                outcome.require_success()
                raise UnexpectedAnswerError(NO_BATCH)
            failures += 1
            yield Sleep(pause_s)

    def _lines(self, after: int) -> Flow[tuple[int, httpx.RequestError | None]]:
        """Reports the lines of the answer that is open; returns the last index, and the error that broke it off."""
        rest = b""
        while True:
            chunk: bytes | httpx.RequestError | None = yield Read()
            if not isinstance(chunk, bytes):
                if chunk is None and rest:
                    raise UnexpectedAnswerError("a line of results is not whole")
                return after, chunk
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                raise UnexpectedAnswerError("a line of results is too long")
            for line in lines:
                result = _result(line)
                after = result.index
                yield Report(result)

    def _batch(self, call: Call) -> Flow[Batch]:
        return (yield from self._requests.output(call, BATCH, NO_BATCH)).batch

    def _added(self, call: Call) -> Flow[int]:
        return (yield from self._requests.output(call, BATCH, NO_BATCH)).added


def _result(line: bytes) -> BatchResult:
    """Raises: UnexpectedAnswerError."""
    try:
        read = LINE.validate_json(line)
    except ValidationError as error:
        raise UnexpectedAnswerError("a line of results does not tell of a request") from error
    return BatchResult(read.index, read.custom_id, Task.from_envelope(read.envelope))


def _path(batch_id: str) -> str:
    return f"{BATCHES}/{quote(batch_id, safe='')}"

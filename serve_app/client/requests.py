"""What each method of a client sends, and how it reads what comes: plans, which both clients carry out."""

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
from pydantic_core import from_json

from serve_app.client.addresses import origin, web_address
from serve_app.client.connection import CONNECT_TIMEOUT_S, EVENT_STREAM
from serve_app.client.errors import ClientSettingsError, NotFinishedError, UnexpectedAnswerError, WithheldError
from serve_app.client.events import EventReader
from serve_app.client.exchange import Answer, Call, Open, Outcome, Plan, Read, Sleep, Tell, answered
from serve_app.client.values import (
    AppInfo,
    AvatarImage,
    AvatarParameters,
    Envelope,
    Faces,
    Photo,
    Task,
    Verdict,
    apps_of,
    faces_of,
    image_format,
    photo_url,
    verdict_of,
)

DEFAULT_APP = "face-avatar"
TIMEOUT_S = 150  # more than the service's own deadline, so that its answer comes before this end
GRACE_S = 30  # beyond the deadline that a request names
WAIT_S = 3600.0  # what the service gives a queued task that names no deadline
RETRIES = 4
POLL_RETRIES = 8  # these take most of a minute, so that a wait outlasts a restart of the service
FIRST_POLL_S = 0.5
MAX_POLL_S = 5.0
SILENCE_S = 25.0  # of a stream of events; the service says something every ten seconds
MAX_ENVELOPE_BYTES = 4 * 1024 * 1024
MAX_IMAGE_BYTES = 64 * 1024 * 1024


class Requests:
    """Those of one token to one service; see FaceAvatarClient for `timeout_s` and `retries`.

    Raises: ClientSettingsError.
    """

    def __init__(self, url: str, token: str, timeout_s: float, retries: int) -> None:
        address = web_address(url)
        if address is None or address.query or address.fragment:
            raise ClientSettingsError(f"{url!r} is not the http(s) URL of a service")
        if not token or not token.isascii() or not token.isprintable():
            raise ClientSettingsError("a token is one line of plain characters")
        self._base = str(address).rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._timeout_s = timeout_s
        self._retries = retries

    def create(self, photo: Photo, parameters: AvatarParameters) -> Plan[Task]:
        timeout_s = max(self._timeout_s, (parameters.get("deadline_s") or 0) + GRACE_S)
        return self._task(self._order(photo, parameters, queued=False), timeout_s)

    def submit(self, photo: Photo, parameters: AvatarParameters) -> Plan[Task]:
        return self._task(self._order(photo, parameters, queued=True), self._timeout_s)

    def get(self, task_id: str) -> Plan[Task]:
        return self._task(self._call("GET", _task_path(task_id)), self._timeout_s)

    def cancel(self, task_id: str) -> Plan[Task]:
        return self._task(self._call("DELETE", _task_path(task_id)), self._timeout_s)

    def apps(self) -> Plan[tuple[AppInfo, ...]]:
        return apps_of((yield from self._envelope(self._call("GET", "/api/v1/apps"))))

    def inspect(self, photo: Photo) -> Plan[Faces]:
        return self._faces(self._call("POST", "/api/v1/faces", {"file_url": photo_url(photo)}))

    def download(self, image: AvatarImage | str) -> Plan[bytes]:
        url = image if isinstance(image, str) else image.url
        if url is None:
            raise WithheldError("the safety stage withheld this image")
        address = web_address(url)
        if address is None:
            raise UnexpectedAnswerError(f"{url!r} is not the http(s) URL of an image")
        # The token stays here: the URL is signed, and may be that of another host.
        answer = yield from answered(Call("GET", address, {}, MAX_IMAGE_BYTES), self._timeout_s, self._retries)
        data = answer.require_success().body
        if image_format(data) is None:
            raise UnexpectedAnswerError(f"what came from {origin(address)} is not a PNG, WebP or JPEG")
        return data

    def follow(self, task_id: str, timeout_s: float) -> Plan[Task]:
        """Tells each state of a task until it is finished, which it comes to, whatever its end.

        By its events; where they do not come, or break off, by asking.
        """
        following, deadline, pauses_s = _Following(), time.monotonic() + timeout_s, _poll_pauses_s()
        while True:
            if following.streams and time.monotonic() < deadline:
                yield from self._listen(task_id, following, deadline)
                if following.heard:
                    pauses_s, following.heard = _poll_pauses_s(), False
            if not following.finished:
                left_s = max(deadline - time.monotonic(), CONNECT_TIMEOUT_S)
                call = self._call("GET", _task_path(task_id))
                asked = self._task(call, min(self._timeout_s, left_s), max(self._retries, POLL_RETRIES))
                yield from following.take((yield from asked))
            if following.task is not None and following.finished:
                return following.task
            pause_s = next(pauses_s)
            if time.monotonic() + pause_s >= deadline:
                raise NotFinishedError(f"task {task_id} was not finished within {timeout_s:g} s")
            yield Sleep(pause_s)

    def _listen(self, task_id: str, following: "_Following", deadline: float) -> Plan[None]:
        """Tell of a task by its events, until the stream ends."""
        call = self._call("GET", f"{_task_path(task_id)}/events", accept=EVENT_STREAM)
        if following.last_id:
            call.headers["Last-Event-ID"] = following.last_id
        opened: Outcome = yield Open(call, min(SILENCE_S, self._timeout_s))
        if isinstance(opened, httpx.RequestError) or opened.status in (429, 502, 503, 504):
            return
        following.streams = opened.status == 200 and opened.headers.get("content-type", "").startswith(EVENT_STREAM)
        reader = EventReader()
        while following.streams and not following.finished and time.monotonic() < deadline:
            chunk: bytes | httpx.RequestError | None = yield Read()
            if not isinstance(chunk, bytes):
                return
            for event in reader.add(chunk):
                following.last_id, following.heard = event.id, True
                yield from following.take(Task.from_envelope(_read_json(event.data)))

    def _order(self, photo: Photo, parameters: AvatarParameters, *, queued: bool) -> Call:
        given = {name: value for name, value in parameters.items() if value is not None}
        body = {"app_id": DEFAULT_APP, **given, "file_url": photo_url(photo), "celery": queued}
        call = self._call("POST", "/getImageToImage", body)
        call.headers["Idempotency-Key"] = str(uuid.uuid4())  # the same in every repeat of this call
        return call

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None, accept: str = "*/*") -> Call:
        headers = self._headers | {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = "application/json"
        content = None if body is None else json.dumps(body).encode()
        return Call(method, httpx.URL(self._base + path), headers, MAX_ENVELOPE_BYTES, content)

    def _task(self, call: Call, timeout_s: float, retries: int | None = None) -> Plan[Task]:
        return Task.from_envelope((yield from self._envelope(call, timeout_s, retries)))

    def verify(self, picture: Photo) -> Plan[Verdict]:
        return self._verdict(self._call("POST", "/api/v1/verify", {"file_url": photo_url(picture)}))

    def _verdict(self, call: Call) -> Plan[Verdict]:
        return verdict_of((yield from self._envelope(call)))

    def _faces(self, call: Call) -> Plan[Faces]:
        return faces_of((yield from self._envelope(call)))

    def _envelope(self, call: Call, timeout_s: float | None = None, retries: int | None = None) -> Plan[Envelope]:
        """The envelope of an answer that went well."""
        tries = self._retries if retries is None else retries
        answer: Answer = yield from answered(call, timeout_s or self._timeout_s, tries)
        envelope = answer.require_success().envelope
        if envelope is None:
            raise UnexpectedAnswerError(f"{origin(call.url)} does not answer as a Face Avatar service does")
        return envelope


class _Following:
    """How far somebody is who follows a task."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.last_id = ""  # of its events
        self.heard = False  # an event, since it was last asked for
        self.streams = True  # the service has events

    @property
    def finished(self) -> bool:
        return self.task is not None and self.task.finished

    def take(self, task: Task) -> Plan[None]:
        """Tell of a state that is another one."""
        known, self.task = self.task, task
        if known is None or (known.status, known.progress) != (task.status, task.progress):
            yield Tell(task)


def _read_json(data: str) -> Envelope:
    """Raises: UnexpectedAnswerError."""
    try:
        read = from_json(data)
    except ValueError as error:
        raise UnexpectedAnswerError("an event is not JSON") from error
    if not isinstance(read, dict):
        raise UnexpectedAnswerError("an event has no envelope")
    return read


def _poll_pauses_s() -> Iterator[float]:
    pause_s = FIRST_POLL_S
    while True:
        yield pause_s
        pause_s = min(pause_s * 1.25, MAX_POLL_S)


def _task_path(task_id: str) -> str:
    return f"/api/v1/tasks/{quote(task_id, safe='')}"

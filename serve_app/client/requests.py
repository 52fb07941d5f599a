"""The requests of each client method and how their answers are read: flows that both clients run."""

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from serve_app.client.addresses import origin, web_address
from serve_app.client.connection import CONNECT_TIMEOUT_S, EVENT_STREAM
from serve_app.client.errors import ClientSettingsError, NotFinishedError, UnexpectedAnswerError, WithheldError
from serve_app.client.events import EventReader
from serve_app.client.exchange import Answer, Call, Flow, Outcome, Read, Report, Send, Sleep, send_with_retries
from serve_app.client.values import (
    AppInfo,
    AppList,
    AvatarImage,
    AvatarParameters,
    Envelope,
    Faces,
    Photo,
    Photos,
    Task,
    Verdict,
    image_format,
    photo_fields,
    photo_url,
)

DEFAULT_APP = "face-avatar"
TIMEOUT_S = 150  # more than the service's own deadline, so that its answer comes first
GRACE_S = 30  # added to the deadline of a request
WAIT_S = 3600.0  # the service's default deadline of a queued task
RETRIES = 4
POLL_RETRIES = 8  # about a minute, so that a wait survives a restart of the service
FIRST_POLL_S = 0.5
MAX_POLL_S = 5.0
SILENCE_S = 25.0  # longest gap in an event stream; the service sends a heartbeat every 10 s
MAX_ENVELOPE_BYTES = 4 * 1024 * 1024
MAX_IMAGE_BYTES = 64 * 1024 * 1024

APPS, FACES, VERDICT = TypeAdapter(AppList), TypeAdapter(Faces), TypeAdapter(Verdict)
T = TypeVar("T")
C = TypeVar("C")


class Requests:
    """The requests of one token to one service; see FaceAvatarClient for `timeout_s` and `retries`.

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
        self.retries = retries

    def create(self, photos: Photos, parameters: AvatarParameters) -> Flow[Task]:
        """A request that is answered when its avatars are made; waits at least `deadline_s` and GRACE_S for that.

        Photos are read from their files now, not when the flow runs. Raises: PhotoFileError.
        """
        timeout_s = max(self._timeout_s, (parameters.get("deadline_s") or 0) + GRACE_S)
        return self._task(self._create_call(photos, parameters, queued=False), timeout_s)

    def submit(self, photos: Photos, parameters: AvatarParameters) -> Flow[Task]:
        """A request that is answered when its task is queued; reads photos' files now. Raises: PhotoFileError."""
        return self._task(self._create_call(photos, parameters, queued=True), self._timeout_s)

    def get(self, task_id: str) -> Flow[Task]:
        """The state of a task, once; that of a failed one is no error."""
        return self._task(self.call("GET", _task_path(task_id)), self._timeout_s)

    def cancel(self, task_id: str) -> Flow[Task]:
        """Cancels an unfinished task, or deletes the results of a finished one; its new state."""
        return self._task(self.call("DELETE", _task_path(task_id)), self._timeout_s)

    def apps(self) -> Flow[tuple[AppInfo, ...]]:
        """The apps that `app_id` can name. The flow raises: UnexpectedAnswerError where they are malformed."""
        listed = self.output(self.call("GET", "/api/v1/apps"), APPS, "the answer is not a list of apps")
        return (yield from listed).apps

    def inspect(self, photo: Photo, app_id: str | None = None) -> Flow[Faces]:
        """The faces of a photo, as an app sees it; reads the photo's file now. Raises: PhotoFileError."""
        body = {"file_url": photo_url(photo)} | ({} if app_id is None else {"app_id": app_id})
        call = self.call("POST", "/api/v1/faces", body)
        return self.output(call, FACES, "the answer does not tell what a photo shows")

    def verify(self, picture: Photo) -> Flow[Verdict]:
        """The verdict on a picture; reads its file now. Raises: PhotoFileError."""
        call = self.call("POST", "/api/v1/verify", {"file_url": photo_url(picture)})
        return self.output(call, VERDICT, "the answer is no verdict on a picture")

    def download(self, image: AvatarImage | str) -> Flow[bytes]:
        """The bytes of an image, at most MAX_IMAGE_BYTES, whose first bytes are those of a PNG, WebP or JPEG.

        The flow raises: WithheldError; UnexpectedAnswerError; ServiceError, for example for an expired URL.
        """
        url = image if isinstance(image, str) else image.url
        if url is None:
            raise WithheldError("the safety stage withheld this image")
        address = web_address(url)
        if address is None:
            raise UnexpectedAnswerError(f"{url!r} is not the http(s) URL of an image")
        # Without the token: the URL is signed, and may belong to another host.
        answer = yield from send_with_retries(Call("GET", address, {}, MAX_IMAGE_BYTES), self._timeout_s, self.retries)
        data = answer.require_success().body
        if image_format(data) is None:
            raise UnexpectedAnswerError(f"what came from {origin(address)} is not a PNG, WebP or JPEG")
        return data

    def follow(self, task_id: str, timeout_s: float) -> Flow[Task]:
        """Reports each state of a task until it is finished, successfully or not, and returns that last state.

        Follows the task's event stream, and polls while there is none. Raises: NotFinishedError.
        """
        state, deadline, pauses_s = _FollowState(), time.monotonic() + timeout_s, _poll_pauses_s()
        while True:
            if state.has_events and time.monotonic() < deadline:
                yield from self._listen(task_id, state, deadline)
                if state.received_event:
                    pauses_s, state.received_event = _poll_pauses_s(), False
            if not state.finished:
                left_s = max(deadline - time.monotonic(), CONNECT_TIMEOUT_S)
                call = self.call("GET", _task_path(task_id))
                poll = self._task(call, min(self._timeout_s, left_s), max(self.retries, POLL_RETRIES))
                yield from state.update((yield from poll))
            if state.task is not None and state.finished:
                return state.task
            pause_s = next(pauses_s)
            if time.monotonic() + pause_s >= deadline:
                raise NotFinishedError(f"task {task_id} was not finished within {timeout_s:g} s")
            yield Sleep(pause_s)

    def _listen(self, task_id: str, state: "_FollowState", deadline: float) -> Flow[None]:
        """Report the events of a task until the stream ends."""
        call = self.call("GET", f"{_task_path(task_id)}/events", accept=EVENT_STREAM)
        if state.last_id:
            call.headers["Last-Event-ID"] = state.last_id
        opened: Outcome = yield Send(call, time.monotonic() + min(SILENCE_S, self._timeout_s), streams=True)
        if isinstance(opened, httpx.RequestError) or opened.status in (429, 502, 503, 504):
            return
        state.has_events = opened.status == 200 and opened.headers.get("content-type", "").startswith(EVENT_STREAM)
        reader = EventReader()
        while state.has_events and not state.finished and time.monotonic() < deadline:
            chunk: bytes | httpx.RequestError | None = yield Read()
            if not isinstance(chunk, bytes):
                return
            for event in reader.add(chunk):
                state.last_id, state.received_event = event.id, True
                yield from state.update(Task.from_envelope(_read_json(event.data)))

    def _create_call(self, photos: Photos, parameters: AvatarParameters, *, queued: bool) -> Call:
        given = {name: value for name, value in parameters.items() if value is not None}
        body = {"app_id": DEFAULT_APP, **given, **photo_fields(photos), "celery": queued}
        call = self.call("POST", "/getImageToImage", body)
        call.headers["Idempotency-Key"] = str(uuid.uuid4())  # the same in every retry
        return call

    def call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        accept: str = "*/*",
        *,
        content: bytes | None = None,
        kind: str = "application/json",
    ) -> Call:
        """A call with the token, and with a JSON body or other content."""
        headers = self._headers | {"Accept": accept}
        if body is not None:
            content = json.dumps(body).encode()
        if content is not None:
            headers["Content-Type"] = kind
        return Call(method, httpx.URL(self._base + path), headers, MAX_ENVELOPE_BYTES, content)

    def _task(self, call: Call, timeout_s: float, retries: int | None = None) -> Flow[Task]:
        return Task.from_envelope((yield from self._envelope(call, timeout_s, retries)))

    def output(self, call: Call, kind: TypeAdapter[T], problem: str) -> Flow[T]:
        """The `output` of an answer. Raises: UnexpectedAnswerError with `problem` where it does not fit."""
        envelope = yield from self._envelope(call)
        try:
            return kind.validate_python(envelope["output"])
        except ValidationError as error:
            raise UnexpectedAnswerError(problem) from error

    def _envelope(self, call: Call, timeout_s: float | None = None, retries: int | None = None) -> Flow[Envelope]:
        """The envelope of a successful answer. Raises: ServiceError, UnexpectedAnswerError, ConnectionFailedError."""
        tries = self.retries if retries is None else retries
        answer: Answer = yield from send_with_retries(call, timeout_s or self._timeout_s, tries)
        envelope = answer.require_success().envelope
        if envelope is None:
            raise UnexpectedAnswerError(f"{origin(call.url)} does not answer as a Face Avatar service does")
        return envelope


class Resource(Generic[C]):
    """A group of methods of a client, sent over its connection."""

    def __init__(self, requests: Requests, connection: C) -> None:
        self._requests = requests
        self._connection = connection


class _FollowState:
    """What is known of a task that is being followed."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.last_id = ""  # of its events
        self.received_event = False  # since the last poll
        self.has_events = True  # the service has an event stream

    @property
    def finished(self) -> bool:
        """Whether the last known state is final; false before the first one."""
        return self.task is not None and self.task.finished

    def update(self, task: Task) -> Flow[None]:
        """Report a new state; a finished task is the result of the flow instead."""
        previous, self.task = self.task, task
        if not task.finished and (
            previous is None or (previous.status, previous.progress) != (task.status, task.progress)
        ):
            yield Report(task)


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

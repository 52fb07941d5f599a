"""A client of the service over HTTP: typed requests and results, and repeats that never have a picture drawn twice.

    with FaceAvatarClient("http://127.0.0.1:8000", token) as client:
        task = client.create(Path("me.jpg"), batch=2, gender="female")
        pictures = [client.download(image.url) for image in task.images if image.url]

Every method raises ClientError; its kinds are drawn in `connection`.
"""

import base64
import json
import mimetypes
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from deployments.types import OutputFormat
from serve_app.connection import (
    CONNECT_TIMEOUT_S,
    Call,
    ClientError,
    ClientSettingsError,
    Connection,
    ServiceError,
    UnexpectedAnswerError,
    origin,
    web_address,
)

DEFAULT_APP = "face-avatar"
TIMEOUT_S = 150  # more than the service's own deadline, so that its answer comes before this end
GRACE_S = 30  # beyond the deadline that a request names
RETRIES = 4
POLL_RETRIES = 8  # these take most of a minute, so that a wait outlasts a restart of the service
FIRST_POLL_S = 0.5
MAX_POLL_S = 5.0
MAX_PHOTO_BYTES = 12 * 1024 * 1024  # more would not fit, as base64, into the 16 MiB of a body
MAX_ENVELOPE_BYTES = 4 * 1024 * 1024
MAX_IMAGE_BYTES = 64 * 1024 * 1024

Photo = Path | str
"""A file, or a URL that the service fetches: http(s), or `data:image/...;base64,`."""

FINISHED = frozenset({"SUCCESS", "FAILED", "CANCELLED"})


class AvatarParameters(TypedDict, total=False):
    """A request besides its photo. What is None or left out takes the service's own value."""

    app_id: str | None
    prompt: str | None
    gender: str | None
    negative_prompt: str | None
    batch: int | None
    height: int | None
    width: int | None
    num_inference_steps: int | None
    guidance_scale: float | None
    ip_adapter_scale: float | None
    remove_background: bool | None
    bg_color: str | None
    seed: int | None
    output_format: OutputFormat | None
    ref_id: str | None
    webhook_url: str | None
    priority: Literal["normal", "low"] | None
    deadline_s: float | None
    consent: bool | None


class PhotoFileError(ClientError):
    pass


class NotFinishedError(ClientError):
    pass


@dataclass(frozen=True, slots=True)
class AvatarImage:
    """One image of a task. `url` is None where the safety stage withheld it.

    `face_similarity` is the cosine (-1..1) to the face of the photo, None where the image shows no face.
    """

    url: str | None
    thumbnail_url: str | None
    seed: int
    face_similarity: float | None


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How far a task is; None for what the service does not know yet."""

    step: int | None = None
    steps: int | None = None
    images_done: int | None = None
    images: int | None = None
    queue_position: int | None = None
    eta_s: float | None = None


@dataclass(frozen=True, slots=True)
class AppInfo:
    """An app that `app_id` can name; `defaults` by field name."""

    app_id: str
    title: str
    licence: str
    native_sizes: list[tuple[int, int]] = field(default_factory=list)  # width, height
    defaults: dict[str, Any] = field(default_factory=dict)
    description: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """A request as the service told of it last; `envelope` is the whole answer."""

    task_id: str
    status: str  # a status that this client does not know counts as not finished
    images: tuple[AvatarImage, ...]
    error: str
    error_data: dict[str, Any]
    stages: dict[str, float]  # seconds
    runtime_s: float
    progress: TaskProgress | None
    envelope: dict[str, Any] = field(repr=False)

    @classmethod
    def from_envelope(cls, envelope: dict[str, Any]) -> "Task":
        """Raises: UnexpectedAnswerError where a part is missing or of another kind."""
        try:
            read = _Envelope.model_validate(envelope)
            images = read.output.images() if read.status == "SUCCESS" else ()
        except ValueError as error:
            raise UnexpectedAnswerError("the answer is not that of a task") from error
        return cls(
            task_id=read.task_id,
            status=read.status,
            images=images,
            error=read.error,
            error_data=read.error_data or {},
            stages=read.time_required.stages,
            runtime_s=read.time_required.runtime,
            progress=read.output.progress,
            envelope=envelope,
        )

    @property
    def finished(self) -> bool:
        return self.status in FINISHED

    def require_success(self) -> "Task":
        """This task. Raises: ServiceError unless it ended well."""
        if self.status == "SUCCESS":
            return self
        data = self.error_data or {"message": f"task {self.task_id} is {self.status}"}
        raise ServiceError(200, self.error or self.status, data, self.task_id)


class _TimeRequired(BaseModel):
    runtime: float
    stages: dict[str, float]


class _Output(BaseModel):
    result: list[str | None] = []
    low_res_urls: list[str | None] = []
    seeds: list[int] = []
    face_similarity: list[float | None] = []
    progress: TaskProgress | None = None

    def images(self) -> tuple[AvatarImage, ...]:
        """Raises: ValueError where the lists are of different lengths."""
        rows = zip(self.result, self.low_res_urls, self.seeds, self.face_similarity, strict=True)
        return tuple(AvatarImage(*row) for row in rows)


class _Envelope(BaseModel):
    """What a client takes from an envelope; more than that may come."""

    time_required: _TimeRequired
    error: str
    error_data: dict[str, Any] | Literal[""]
    input: dict[str, Any]
    output: _Output
    task_id: str
    status: str


class FaceAvatarClient:
    """One service, and one token for it.

    `timeout_s` bounds each call, its repeats included (a create with a later deadline: that and GRACE_S); an answer
    that stalls halfway may take as long again. `retries` is how often at most a call is repeated, `sleep` how the time
    in between is spent.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        address = web_address(url)
        if address is None or address.query or address.fragment:
            raise ClientSettingsError(f"{url!r} is not the http(s) URL of a service")
        if not token or not token.isascii() or not token.isprintable():
            raise ClientSettingsError("a token is one line of plain characters")
        self._base = str(address).rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._timeout_s = timeout_s
        self._retries = retries
        self._sleep = sleep
        self._connection = Connection(sleep)

    def __enter__(self) -> "FaceAvatarClient":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def create(self, photo: Photo, **parameters: Unpack[AvatarParameters]) -> Task:
        """Have avatars made and wait for them. A dropped connection is taken up again: nothing is drawn twice."""
        timeout_s = max(self._timeout_s, (parameters.get("deadline_s") or 0) + GRACE_S)
        return self._order(photo, parameters, queued=False, timeout_s=timeout_s)

    def submit(self, photo: Photo, **parameters: Unpack[AvatarParameters]) -> Task:
        """Queue a task and do not wait for it: see `wait` and `get`."""
        return self._order(photo, parameters, queued=True, timeout_s=self._timeout_s)

    def get(self, task_id: str) -> Task:
        """A task as it stands, failed ones too; its URLs are signed anew."""
        return self._get(task_id, self._timeout_s, self._retries)

    def wait(
        self, task: Task | str, *, timeout_s: float = 3600, report: Callable[[Task], None] = lambda _: None
    ) -> Task:
        """Ask for a task until it is finished, whatever its end; `report` is told of each state on the way."""
        task_id = task if isinstance(task, str) else task.task_id
        deadline = time.monotonic() + timeout_s
        for pause_s in _poll_pauses_s():
            left_s = max(deadline - time.monotonic(), CONNECT_TIMEOUT_S)
            seen = self._get(task_id, min(self._timeout_s, left_s), max(self._retries, POLL_RETRIES))
            report(seen)
            if seen.finished:
                return seen
            if time.monotonic() + pause_s >= deadline:
                break
            self._sleep(pause_s)
        raise NotFinishedError(f"task {task_id} was not finished within {timeout_s:g} s")

    def cancel(self, task_id: str) -> Task:
        """End an unfinished task; delete the results of a finished one."""
        call = self._call("DELETE", _task_path(task_id))
        return Task.from_envelope(self._ask(call, self._timeout_s, self._retries))

    def apps(self) -> tuple[AppInfo, ...]:
        """What `app_id` can name."""
        output = self._ask(self._call("GET", "/api/v1/apps"), self._timeout_s, self._retries)["output"]
        try:
            return TypeAdapter(tuple[AppInfo, ...]).validate_python(output["apps"])
        except (ValidationError, LookupError, TypeError) as error:
            raise UnexpectedAnswerError("the answer is not a list of apps") from error

    def download(self, url: str) -> bytes:
        """A result or thumbnail: PNG, WebP or JPEG, at most MAX_IMAGE_BYTES.

        The token stays here: the URL is signed, and may be that of another host.
        """
        address = web_address(url)
        if address is None:
            raise UnexpectedAnswerError(f"{url!r} is not the http(s) URL of an image")
        call = Call("GET", address, {}, MAX_IMAGE_BYTES)
        data = self._connection.send(call, self._timeout_s, self._retries).require_success().body
        if image_format(data) is None:
            raise UnexpectedAnswerError(f"what came from {origin(address)} is not a PNG, WebP or JPEG")
        return data

    def _order(self, photo: Photo, parameters: AvatarParameters, *, queued: bool, timeout_s: float) -> Task:
        given = {name: value for name, value in parameters.items() if value is not None}
        body = {"app_id": DEFAULT_APP, **given, "file_url": photo_url(photo), "celery": queued}
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        call = self._call("POST", "/getImageToImage", headers, json.dumps(body).encode())
        return Task.from_envelope(self._ask(call, timeout_s, self._retries))

    def _get(self, task_id: str, timeout_s: float, retries: int) -> Task:
        return Task.from_envelope(self._ask(self._call("GET", _task_path(task_id)), timeout_s, retries))

    def _call(
        self, method: str, path: str, headers: dict[str, str] | None = None, content: bytes | None = None
    ) -> Call:
        return Call(method, httpx.URL(self._base + path), self._headers | (headers or {}), MAX_ENVELOPE_BYTES, content)

    def _ask(self, call: Call, timeout_s: float, retries: int) -> dict[str, Any]:
        """The envelope of an answer that went well."""
        envelope = self._connection.send(call, timeout_s, retries).require_success().envelope
        if envelope is None:
            raise UnexpectedAnswerError(f"{origin(call.url)} does not answer as a Face Avatar service does")
        return envelope


def photo_url(photo: Photo) -> str:
    """What goes into `file_url`. Raises: PhotoFileError."""
    return photo if isinstance(photo, str) else data_url(photo)


def data_url(photo: Path) -> str:
    """The file as a data URL. Raises: PhotoFileError where it cannot be read or is larger than MAX_PHOTO_BYTES."""
    try:
        with photo.open("rb") as file:
            data = file.read(MAX_PHOTO_BYTES + 1)
    except OSError as error:
        raise PhotoFileError(f"{photo}: {error.strerror}") from error
    if len(data) > MAX_PHOTO_BYTES:
        raise PhotoFileError(f"{photo}: more than {MAX_PHOTO_BYTES} bytes")
    kind = mimetypes.guess_type(photo.name)[0] or "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image_format(data: bytes) -> OutputFormat | None:
    """The format of a file by its first bytes; None if it is no format of results."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _poll_pauses_s() -> Iterator[float]:
    pause_s = FIRST_POLL_S
    while True:
        yield pause_s
        pause_s = min(pause_s * 1.25, MAX_POLL_S)


def _task_path(task_id: str) -> str:
    return f"/api/v1/tasks/{quote(task_id, safe='')}"

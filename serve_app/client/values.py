"""The typed values that a client sends and receives."""

import base64
import mimetypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from pydantic import BaseModel

from deployments.types import OutputFormat
from serve_app.client.errors import PhotoFileError, ServiceError, UnexpectedAnswerError

MAX_PHOTO_BYTES = 30 * 1024 * 1024  # as the service has it by default

Photo = Path | str
"""A file, or a URL that the service fetches: http(s), or `data:image/...;base64,`."""

Photos = Photo | Sequence[Photo]
"""A photo, or up to four of one person."""

Envelope = dict[str, Any]

FINISHED = frozenset({"SUCCESS", "FAILED", "CANCELLED"})


class AvatarParameters(TypedDict, total=False):
    """The fields of a request besides the photos. Fields that are None or missing take the service's defaults."""

    app_id: str | None
    prompt: str | None
    style: str | None
    gender: str | None
    negative_prompt: str | None
    batch: int | None
    height: int | None
    width: int | None
    num_inference_steps: int | None
    guidance_scale: float | None
    ip_adapter_scale: float | None
    min_similarity: float | None
    remove_background: bool | None
    bg_color: str | None
    seed: int | None
    output_format: OutputFormat | None
    ref_id: str | None
    webhook_url: str | None
    quality: Literal["standard", "fast"] | None
    priority: Literal["normal", "low"] | None
    deadline_s: float | None
    consent: bool | None
    previews: bool | None
    start_deadline_s: float | None
    fallback_app_id: str | None


@dataclass(frozen=True, slots=True)
class AvatarImage:
    """One image of a task. `url` is None where the safety stage withheld it.

    `face_similarity` is the cosine (-1..1) to the face of the photo, None where the image shows no face. `receipt`
    holds everything needed to generate the image again, `attempts` each try at it; older services send neither.
    """

    url: str | None
    thumbnail_url: str | None
    seed: int
    face_similarity: float | None
    receipt: dict[str, Any] = field(default_factory=dict, repr=False)
    attempts: tuple[dict[str, Any], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """The progress of a task; None for what is not known yet. `image_steps` counts the finished steps of each image.

    `previews` are data URLs of what each image looks like so far, only in the events of a task with `previews`.
    """

    step: int | None = None
    steps: int | None = None
    images_done: int | None = None
    images: int | None = None
    queue_position: int | None = None
    eta_s: float | None = None
    image_steps: tuple[int, ...] = ()
    previews: tuple[str | None, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class AppInfo:
    """An app that `app_id` can name; `defaults` are by field name, `styles` by the name that `style` takes.

    `fast` are the values of fields that the quality `fast` has, None where the app has no such quality.
    """

    app_id: str
    title: str
    licence: str
    native_sizes: list[tuple[int, int]] = field(default_factory=list)  # width, height
    defaults: dict[str, Any] = field(default_factory=dict)
    description: str = ""
    styles: dict[str, dict[str, Any]] = field(default_factory=dict)  # each with its `title`
    model: str = ""  # what it draws with, as receipts name it; "" where an older service does not say
    qualities: tuple[str, ...] = ("standard",)
    fast: dict[str, Any] | None = None
    fallback_app_id: str | None = None  # the app that draws where this one would miss a deadline
    vocabulary: dict[str, tuple[str, ...]] | None = None  # the words of prompts that it knows; None: any text


@dataclass(frozen=True, slots=True)
class AppList:
    """`output` of the list of apps."""

    apps: tuple[AppInfo, ...]


@dataclass(frozen=True, slots=True)
class Face:
    """A face on a photo: `box` is left, top, right, bottom in pixels; `sharpness` below 5 means blurred."""

    box: tuple[float, float, float, float]
    score: float
    sharpness: float


@dataclass(frozen=True, slots=True)
class PhotoWarning:
    """A photo is used, but its owner should know of something; `photo` says which, 0 is the first."""

    code: str
    photo: int
    message: str


@dataclass(frozen=True, slots=True)
class Faces:
    """The faces of an upright photo of `width` x `height` pixels, the largest first; avatars use `faces[used]`.

    `reason` and `message` say why the photo would not be accepted; older services send no warnings.
    """

    width: int
    height: int
    faces: tuple[Face, ...]
    used: int | None
    accepted: bool
    reason: str | None
    message: str
    warnings: tuple[PhotoWarning, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of checking content credentials; `credentials` can be trusted for a genuine picture only."""

    verdict: str  # genuine, altered, foreign, unreadable, unsigned
    ours: bool
    intact: bool
    message: str
    trust: str | None = None
    credentials: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """The latest known state of a request; `envelope` is the whole answer."""

    task_id: str
    status: str  # an unknown status counts as not finished
    images: tuple[AvatarImage, ...]
    error: str
    error_data: dict[str, Any]
    stages: dict[str, float]  # seconds
    runtime_s: float
    progress: TaskProgress | None
    envelope: Envelope = field(repr=False)
    warnings: tuple[PhotoWarning, ...] = ()

    @classmethod
    def from_envelope(cls, envelope: Envelope) -> "Task":
        """Raises: UnexpectedAnswerError where a field is missing or has the wrong type."""
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
            warnings=read.output.warnings,
        )

    @property
    def finished(self) -> bool:
        """Whether its status is final: SUCCESS, FAILED or CANCELLED."""
        return self.status in FINISHED

    def warning_texts(self) -> Iterator[str]:
        """What to know about the photos; of several it names the one, counted from 1."""
        several = len(self.envelope["input"].get("file_urls") or ()) > 1
        for warning in self.warnings:
            yield f"photo {warning.photo + 1}: {warning.message}" if several else warning.message

    def require_success(self) -> "Task":
        """This task. Raises: ServiceError unless it succeeded."""
        if self.status == "SUCCESS":
            return self
        data = self.error_data or {"message": f"task {self.task_id} is {self.status}"}
        raise ServiceError(200, self.error or self.status, data, self.task_id)


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """How many requests of a batch are in each state."""

    total: int
    waiting: int
    running: int
    succeeded: int
    failed: int
    cancelled: int

    @property
    def ended(self) -> int:
        """Those that have results."""
        return self.succeeded + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """How a webhook was told; `status` (HTTP) and `error` are those of the last attempt."""

    attempts: int = 0
    delivered_at: float | None = None  # unix seconds
    given_up: bool = False
    status: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """The latest known state of a batch: open, running, finished or cancelled. Times are unix seconds."""

    batch_id: str
    state: str
    counts: BatchCounts
    created_at: float
    deadline: float
    finished_at: float | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    ref_id: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    webhook: WebhookDelivery | None = None

    @property
    def finished(self) -> bool:
        """Whether every request has its result, and none is added any more."""
        return self.state in ("finished", "cancelled") and self.counts.ended == self.counts.total


@dataclass(frozen=True, slots=True)
class BatchItem:
    """A request to be added: its name in the batch, its photos, and what the batch's defaults do not say."""

    custom_id: str
    photos: Photos
    parameters: AvatarParameters = field(default_factory=lambda: AvatarParameters())

    def fields(self) -> dict[str, Any]:
        """As a line of JSON has it; reads the photos' files. Raises: PhotoFileError."""
        given = {name: value for name, value in self.parameters.items() if value is not None}
        return {"custom_id": self.custom_id, **given, **photo_fields(self.photos)}


@dataclass(frozen=True, slots=True)
class BatchResult:
    """How a request of a batch ended; `index` counts the results in the order of these ends."""

    index: int
    custom_id: str
    task: Task


@dataclass(frozen=True, slots=True)
class BatchOutput:
    """`output` of an answer about a batch."""

    batch: Batch
    added: int = 0


@dataclass(frozen=True, slots=True)
class BatchList:
    """`output` of the list of batches."""

    batches: tuple[Batch, ...]


def batch_id_of(batch: Batch | str) -> str:
    """The id of a batch that is given as a value or by its id."""
    return batch if isinstance(batch, str) else batch.batch_id


def task_id_of(task: Task | str) -> str:
    """The id of a task that is given as a value or by its id."""
    return task if isinstance(task, str) else task.task_id


class _TimeRequired(BaseModel):
    runtime: float
    stages: dict[str, float]


class _Output(BaseModel):
    result: list[str | None] = []
    low_res_urls: list[str | None] = []
    seeds: list[int] = []
    face_similarity: list[float | None] = []
    receipts: list[dict[str, Any] | None] = []
    attempts: list[list[dict[str, Any]]] = []
    progress: TaskProgress | None = None
    warnings: tuple[PhotoWarning, ...] = ()

    def images(self) -> tuple[AvatarImage, ...]:
        """Raises: ValueError where the lists differ in length."""
        receipts: list[dict[str, Any] | None] = self.receipts or [None] * len(self.result)
        attempts: list[list[dict[str, Any]]] = self.attempts or [[]] * len(self.result)
        rows = zip(self.result, self.low_res_urls, self.seeds, self.face_similarity, receipts, attempts, strict=True)
        return tuple(
            AvatarImage(url, thumbnail_url, seed, similarity, receipt or {}, tuple(tries))
            for url, thumbnail_url, seed, similarity, receipt, tries in rows
        )


class _Envelope(BaseModel):
    """The fields of an envelope that a client reads; others are ignored."""

    time_required: _TimeRequired
    error: str
    error_data: dict[str, Any] | Literal[""]
    input: dict[str, Any]
    output: _Output
    task_id: str
    status: str


def photo_fields(photos: Photos) -> dict[str, str | list[str]]:
    """The fields of a request that have the photos. Raises: PhotoFileError."""
    if isinstance(photos, Path | str):
        return {"file_url": photo_url(photos)}
    several = [photo_url(photo) for photo in photos]
    return {"file_url": several[0]} if len(several) == 1 else {"file_urls": several}


def photo_url(photo: Photo) -> str:
    """The value of `file_url`. Raises: PhotoFileError."""
    return photo if isinstance(photo, str) else data_url(photo)


def data_url(photo: Path) -> str:
    """A file as a data URL. Raises: PhotoFileError where it cannot be read or is larger than MAX_PHOTO_BYTES."""
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
    """The image format by the first bytes; None if it is not PNG, JPEG or WebP."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None

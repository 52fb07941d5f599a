"""The values of a task: its request, its state and its outcome.

A worker may read what a newer version wrote: it ignores fields that it does not know.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from deployments.types import GenerationMetadata, ImageProgress
from serve_app.backends.object_store import photo_keys, result_key, thumbnail_key
from serve_app.schemas.requests import EffectiveRequest, Priority
from serve_app.schemas.responses import Attempt, Status

LEASE_S = 10.0
DEAD_TTL_S = 7 * 24 * 3600
FAILURE_TTL_S = 3600  # of a failure that was the answer to its own request; longer than its webhook is tried
MAX_FAILURES = 1000  # the newest that are kept of one owner: those that were answers, and those of queued tasks
MAX_FAILURE_CHARS = 500  # of each text of a failed request that is kept
UNFINISHED = frozenset({"PENDING", "STARTED"})
IMAGE_FIELD = "avatar:"  # and the image's index


@dataclass(frozen=True, slots=True)
class StoredAvatar:
    """One finished image: its keys in the store, the times of its stages (seconds), and its generation metadata."""

    key: str
    thumbnail_key: str
    seed: int
    face_similarity: float | None
    startup_s: float
    diffusion_s: float
    finish_s: float
    store_s: float
    attempts: tuple[Attempt, ...] = ()
    drawn_with: GenerationMetadata | None = None  # None where an older version drew it
    drawn_size: tuple[int, int] = (0, 0)
    drawn_sha256: str = ""
    withheld: bool = False  # by the safety checker: it is not stored


AVATAR = TypeAdapter(StoredAvatar)
IMAGE_PROGRESS = TypeAdapter(ImageProgress)


class Recorded(BaseModel):
    """Base of what is stored in Redis as JSON, or read from it."""

    # During an upgrade, older replicas read what newer ones wrote.
    model_config = ConfigDict(extra="ignore", frozen=True)


class Webhook(Recorded):
    """The URL to call when a task is finished; `base_url` is the start of the links to its results."""

    url: str
    base_url: str


class Task(Recorded):
    """One request with all its values filled in. `owner` is the owner of its token."""

    task_id: str
    owner: str
    request: EffectiveRequest
    submitted_at: float  # unix seconds
    idempotency: str | None = None  # the digest of the client's key
    webhook: Webhook | None = None
    token: str = ""  # the id of the request's token
    # The same request to the app to fall back on. Not stored: when a task is accepted, it is decided which one draws.
    fallback: EffectiveRequest | None = Field(None, exclude=True)

    @property
    def deadline(self) -> float:
        """Unix seconds."""
        return self.submitted_at + self.request.deadline_s

    @property
    def start_deadline(self) -> float | None:
        """Unix seconds, by which its drawing must have begun; None: no matter when."""
        within_s = self.request.start_deadline_s
        return None if within_s is None else self.submitted_at + within_s


class Failure(Recorded):
    """An error as in its HTTP response."""

    status: int
    error: str
    error_data: dict[str, Any]


class Outcome(Recorded):
    """The avatars of a task, or why there are none. `stages` and `startup_s` are seconds, `warnings` codes."""

    avatars: tuple[StoredAvatar, ...] = ()
    failure: Failure | None = None
    stages: dict[str, float] = {}
    startup_s: float = 0.0
    warnings: tuple[str, ...] = ()  # about the photos, as `schemas.warnings.recorded_code` writes them


class Delivery(Recorded):
    """The state of a webhook. `status` and `error` are those of the last attempt."""

    attempts: int = 0
    delivered_at: float | None = None  # unix seconds
    given_up: bool = False
    status: int | None = None
    error: str = ""


class Throughput(NamedTuple):
    """Recent worker throughput: seconds per task, and per image; `app_image_s` per image of one app, None: unknown."""

    task_s: float
    image_s: float
    app_image_s: float | None = None


class Queued(NamedTuple):
    """The unfinished queued tasks of an owner, and the queue of the next one: the normal one has one of each."""

    tasks: int
    next_one: Priority


class QueueMove(NamedTuple):
    """Where a request that becomes a queued task waits, and where it goes: a member of two sorted sets.

    `reserved` is a sorted set of the tasks that are not recorded yet, but whose files are needed.
    """

    waiting: str
    queued: str
    reserved: str
    member: str


class TaskRecord(Recorded):
    """A task, its state and its outcome, as `record_from` reads them."""

    task: Task
    status: Status
    revision: int = 0  # grows with every change that a client may see
    attempts: int = 0  # how often a process began to run it
    started_at: float | None = None  # unix seconds
    finished_at: float | None = None
    avatars: dict[int, StoredAvatar] = {}  # the images that are done, while the task is unfinished
    outcome: Outcome = Outcome()
    delivery: Delivery | None = None  # of its webhook, where it has one
    message_id: str | None = None  # in the queue
    priority: Priority = "normal"  # of that message; also low while other tasks of its owner precede it
    dead: bool = False  # a dead letter: its photos are kept
    is_leased: bool = False  # a process works on it now

    @property
    def finished(self) -> bool:
        """Whether its status is final; a dead letter can still be requeued."""
        return self.status not in UNFINISHED

    @property
    def unneeded_files(self) -> list[str]:
        """The keys of the files that the task no longer needs."""
        return unneeded_files(self.task, self.status, dead=self.dead)

    @property
    def images_done(self) -> int:
        """Images recorded so far; those of the outcome once the task is finished."""
        return len(self.avatars) or len(self.outcome.avatars)


class Claim(StrEnum):
    """What became of an attempt to lease a task, in the words of the CLAIM script."""

    ACQUIRED = "ours"
    LEASED = "held"  # by another process
    FINISHED = "over"  # or cancelled, or expired


def record_from(fields: dict[str, Any], *, is_leased: bool) -> TaskRecord:
    """A record from its fields in Redis."""
    for name, kind in (("task", Task), ("outcome", Outcome), ("delivery", Delivery)):
        if name in fields:
            fields[name] = kind.model_validate_json(fields[name])
    avatars = {
        int(name.removeprefix(IMAGE_FIELD)): AVATAR.validate_json(value)
        for name, value in fields.items()
        if name.startswith(IMAGE_FIELD)
    }
    return TaskRecord(**fields, avatars=avatars, is_leased=is_leased)


def task_files(task: Task) -> list[str]:
    """The keys of all files that the store may have of a task: its photos, images and thumbnails."""
    request, task_id = task.request, task.task_id
    images = [result_key(task_id, index, request.output_format) for index in range(request.batch)]
    photos = photo_keys(task_id, request.photo_count)
    return [*photos, *images, *(thumbnail_key(task_id, index) for index in range(request.batch))]


def unneeded_files(task: Task, status: Status, *, dead: bool) -> list[str]:
    """The keys of the files that a task with this status no longer needs; a dead one may be requeued, and needs all."""
    if dead or status in UNFINISHED:
        return []
    if status == "SUCCESS":
        return photo_keys(task.task_id, task.request.photo_count) if task.request.celery else []  # else never stored
    return task_files(task)


def without_long_texts(task: Task) -> Task:
    """The task as it is kept when its client was answered that it failed: of long texts only the beginning."""
    cut = {name: _cut(text) for name, text in task.request if isinstance(text, str)}
    urls = task.request.file_urls
    several = {"file_urls": None if urls is None else tuple(map(_cut, urls))}
    return task.model_copy(update={"request": task.request.model_copy(update=cut | several)})


def _cut(text: str) -> str:
    return f"{text[:MAX_FAILURE_CHARS]}…" if len(text) > MAX_FAILURE_CHARS else text


def idempotency_digest(owner: str, key: str) -> str:
    """The digest of a client's idempotency key; those of two owners never collide."""
    return hashlib.sha256(f"{owner}\n{key}".encode()).hexdigest()

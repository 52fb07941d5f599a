"""The values of a task: its request, its state and its outcome.

A worker may read what a newer version wrote: it ignores fields that it does not know.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter

from deployments.types import GenerationMetadata, ImageProgress
from serve_app.backends.object_store import photo_key, result_key, thumbnail_key
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

    @property
    def deadline(self) -> float:
        """Unix seconds."""
        return self.submitted_at + self.request.deadline_s


class Failure(Recorded):
    """An error as in its HTTP response."""

    status: int
    error: str
    error_data: dict[str, Any]


class Outcome(Recorded):
    """The avatars of a task, or why there are none. `stages` and `startup_s` are seconds."""

    avatars: tuple[StoredAvatar, ...] = ()
    failure: Failure | None = None
    stages: dict[str, float] = {}
    startup_s: float = 0.0


class Delivery(Recorded):
    """The state of a webhook. `status` and `error` are those of the last attempt."""

    attempts: int = 0
    delivered_at: float | None = None  # unix seconds
    given_up: bool = False
    status: int | None = None
    error: str = ""


class Throughput(NamedTuple):
    """Recent worker throughput: seconds per task, and per image."""

    task_s: float
    image_s: float


class Queued(NamedTuple):
    """The unfinished queued tasks of an owner, and the queue of the next one: the normal one has one of each."""

    tasks: int
    next_one: Priority


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
    dead: bool = False  # a dead letter: its photo is kept
    is_leased: bool = False  # a process works on it now

    @property
    def finished(self) -> bool:
        """Whether its status is final; a dead letter can still be requeued."""
        return self.status not in UNFINISHED

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
    """The keys of all files that the store may have of a task: its photo, images and thumbnails."""
    request, task_id = task.request, task.task_id
    images = [result_key(task_id, index, request.output_format) for index in range(request.batch)]
    return [photo_key(task_id), *images, *(thumbnail_key(task_id, index) for index in range(request.batch))]


def unneeded_files(task: Task, status: Status, *, dead: bool) -> list[str]:
    """The keys of the files that a task with this status no longer needs; a dead one may be requeued, and needs all."""
    if dead or status in UNFINISHED:
        return []
    return [photo_key(task.task_id)] if status == "SUCCESS" else task_files(task)


def without_long_texts(task: Task) -> Task:
    """The task as it is kept when its client was answered that it failed: of long texts only the beginning."""
    long = {name: text for name, text in task.request if isinstance(text, str) and len(text) > MAX_FAILURE_CHARS}
    cut = {name: f"{text[:MAX_FAILURE_CHARS]}…" for name, text in long.items()}
    return task.model_copy(update={"request": task.request.model_copy(update=cut)})


def idempotency_digest(owner: str, key: str) -> str:
    """The digest of a client's idempotency key; those of two owners never collide."""
    return hashlib.sha256(f"{owner}\n{key}".encode()).hexdigest()


class Keys:
    """The names of the Redis keys."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.queue = f"{self._prefix}:queue"
        self.low_queue = f"{self._prefix}:queue:low"
        self.open = f"{self._prefix}:open"  # unfinished queued tasks, by the time they were queued
        self.dead = f"{self._prefix}:dead"  # dead letters, by the time they died
        # A stream of the ids of tasks whose records changed recently, and of tokens that were revoked.
        self.changes = f"{self._prefix}:changes"
        self.webhooks = (
            f"{self._prefix}:webhooks"  # finished tasks whose webhooks are due, by the time of the next attempt
        )
        self.webhook_owners = f"{self._prefix}:webhooks:owners"  # with webhooks in line, by the time of their last turn
        self.throughput = f"{self._prefix}:pace"
        self.reaper = f"{self._prefix}:reaper"
        self.cold_starts = f"{self._prefix}:cold-starts"  # seconds that the last cold start of each stage took
        self.tokens = f"{self._prefix}:tokens"
        self.tokens_used = f"{self._prefix}:tokens-used"  # when each was last used
        self.rates = f"{self._prefix}:rate"
        self.signing_key = f"{self._prefix}:signing-key"
        self.certificate = f"{self._prefix}:certificate"  # and its key, for content credentials

    def sweeper(self, what: str) -> str:
        """A string that expires: the lock of one periodic clean-up, `photos` or `results`."""
        return f"{self._prefix}:sweeper:{what}"

    def record(self, task_id: str) -> str:
        """A hash: the record of a task."""
        return f"{self._prefix}:task:{task_id}"

    def open_of(self, owner: str) -> str:
        """A sorted set: an owner's unfinished queued tasks, by the time they were queued."""
        return f"{self.open}:of:{owner}"

    def line(self, owner: str) -> str:
        """A sorted set: the one task of an owner that waits in the normal queue."""
        return f"{self.open}:line:{owner}"

    def later(self, owner: str) -> str:
        """A sorted set: the owner's tasks behind that one, in the low queue meanwhile, by when they were queued."""
        return f"{self.open}:later:{owner}"

    def lease(self, task_id: str) -> str:
        """A string that expires: the lease owner of a task."""
        return f"{self._prefix}:lease:{task_id}"

    def progress(self, task_id: str) -> str:
        """A hash: the `ImageProgress` of a task's images, by their index."""
        return f"{self._prefix}:progress:{task_id}"

    def idempotency(self, digest: str) -> str:
        """A string: the id of the task with this `idempotency_digest`, and the digest of its request body."""
        return f"{self._prefix}:idempotency:{digest}"

    def slots(self, token: str) -> str:
        """A hash: by task id, the images that a token's synchronous tasks make now, and since when (unix seconds)."""
        return f"{self._prefix}:places:{token}"

    def use(self, owner: str) -> str:
        """A string: what an owner used recently in all processes, seconds, and when that was (unix seconds)."""
        return f"{self._prefix}:use:{owner}"

    def images_taken(self, token: str, day: str) -> str:
        """A counter: the images that a token took on a day (UTC), such as 2026-11-30."""
        return f"{self._prefix}:taken:{token}:{day}"

    def usage(self, token: str, day: str) -> str:
        """A hash: the counts of a token's usage on a day (UTC), such as 2026-11-30."""
        return f"{self._prefix}:usage:{token}:{day}"

    def of_task(self, task_id: str) -> list[str]:
        """In the order in which the scripts unpack them."""
        of_all = [self.queue, self.low_queue, self.open, self.dead, self.changes, self.webhooks, self.throughput]
        return [self.record(task_id), self.lease(task_id), *of_all]

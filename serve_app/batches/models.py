"""The values of a batch: what it was opened with, its state, and its requests."""

from enum import StrEnum
from typing import Any, NamedTuple

from serve_app.schemas.requests import AvatarRequest
from serve_app.tasks.models import Delivery, Recorded, Webhook

DIGEST_CHARS = 32  # of the SHA-256 of a request: repeats of one owner's own requests are told apart by it


class BatchState(StrEnum):
    """More requests may be added to an open one; a running one ends when its requests have."""

    OPEN = "open"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class Ending(StrEnum):
    """How a request of a batch ended; the last two without having become a task that ended so."""

    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"  # the time of the batch was over before it was queued


class Batch(Recorded):
    """What a batch was opened with. `defaults` are fields of its requests."""

    batch_id: str
    owner: str
    token: str  # the id of the token that opened it, whose limits hold
    created_at: float  # unix seconds
    deadline: float  # unix seconds; what is not queued by then is given up
    defaults: dict[str, Any]
    ref_id: str | None
    metadata: dict[str, str]
    webhook: Webhook | None = None


class BatchRecord(NamedTuple):
    """A batch and where it stands."""

    batch: Batch
    state: BatchState
    finished_at: float | None  # unix seconds
    total: int
    waiting: int  # not queued yet
    succeeded: int
    failed: int
    cancelled: int
    delivery: Delivery | None  # of its webhook, where it has one


class NewRequest(NamedTuple):
    """A request on its way into a batch; its task has this id once it is queued."""

    line: int | None  # of the chunk, from 1; None where a form has only its photo
    custom_id: str
    request: AvatarRequest


class BatchItem(NamedTuple):
    """A request of a batch as the broker knows it: the rest is in the store."""

    custom_id: str
    task_id: str
    digest: str
    photos: int

    @classmethod
    def read(cls, custom_id: str, value: str) -> "BatchItem":
        """From the value of its field in Redis, as `value` writes it."""
        task_id, digest, photos = value.split(" ")
        return cls(custom_id, task_id, digest, int(photos))

    @property
    def value(self) -> str:
        """All but its `custom_id`, as it is stored."""
        return f"{self.task_id} {self.digest} {self.photos}"


class EndedItem(NamedTuple):
    """A request that ended; `position` counts them in the order of their ends, from 1."""

    position: int
    ending: Ending
    item: BatchItem


class Verdict(NamedTuple):
    """What the broker says to a chunk: the requests that it does not know, and those that it knows otherwise."""

    state: str  # fits, closed, full, large
    fresh: list[int]  # positions in the chunk
    changed: list[int]

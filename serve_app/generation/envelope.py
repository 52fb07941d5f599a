"""Builds the envelope that a client receives from the record of its task."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import NamedTuple

from deployments.errors import DeadlineError, NotBegunError
from deployments.types import ImageProgress
from serve_app.backends.object_store import Results
from serve_app.errors import InterruptedWorkError
from serve_app.generation.execution import failure_outcome
from serve_app.schemas.receipts import Receipt
from serve_app.schemas.requests import EffectiveRequest
from serve_app.schemas.responses import AvatarOutput, Envelope, Progress, TimeRequired
from serve_app.schemas.warnings import recorded_warnings
from serve_app.tasks.models import StoredAvatar, TaskRecord
from serve_app.tasks.previews import Previews

OVERDUE_S = 5  # a task without an outcome so long after its deadline will never have one


class QueuePosition(NamedTuple):
    """Where an unfinished task is: 1 is next in the queue, 0 is in progress; `eta_s` is None where unknown.

    `drawing` has those of its images that the generator works on, by their index.
    """

    position: int
    eta_s: float | None
    drawing: Mapping[int, ImageProgress] = MappingProxyType({})


IN_PROGRESS = QueuePosition(0, None)


def effective_record(record: TaskRecord, now: float) -> TaskRecord:
    """The record, or if no process will finish its task any more, a copy that says that it failed."""
    request = record.task.request
    if record.finished or record.is_leased:
        return record
    if now > record.task.deadline + OVERDUE_S:
        error: Exception = DeadlineError(f"Not done within {request.deadline_s:g} s.")
    elif _waits_in_vain(record, now):
        error = NotBegunError.within(request.start_deadline_s or 0.0)
    elif record.message_id is None:  # not in the queue: its ingress died
        error = InterruptedWorkError("The service was interrupted while it worked on this. Send it again.")
    else:
        return record
    return record.model_copy(update={"status": "FAILED", "outcome": failure_outcome(error)})


def _waits_in_vain(record: TaskRecord, now: float) -> bool:
    """Whether a task waits in the queue that no worker will begin, as its start deadline has passed."""
    start_deadline = record.task.start_deadline
    was_taken = record.started_at is not None  # so it may have begun
    return start_deadline is not None and not was_taken and now > start_deadline + OVERDUE_S


async def envelope_of(
    record: TaskRecord,
    results: Results,
    base_url: str,
    position: QueuePosition = IN_PROGRESS,
    previews: Previews | None = None,
) -> Envelope:
    """The envelope of a task in its present state, with newly signed URLs. Raises: StoreError."""
    request, outcome, failure = record.task.request, record.outcome, record.outcome.failure
    webhook = {} if record.delivery is None else {"webhook": record.delivery.model_dump()}
    return Envelope(
        time_required=TimeRequired(
            startup_time=outcome.startup_s, runtime=round(_runtime_s(record), 4), stages=outcome.stages
        ),
        error=failure.error if failure else "",
        error_data=failure.error_data if failure else "",
        input=request.model_dump(),
        output=await _output(record, results, base_url, position, previews) | webhook,
        app_id=request.app_id,
        task_id=record.task.task_id,
        status=record.status,
    )


def _runtime_s(record: TaskRecord) -> float:
    """Since its start, so without the time in the queue."""
    if record.started_at is None:
        return 0.0
    return (record.finished_at or time.time()) - record.started_at


async def _output(
    record: TaskRecord, results: Results, base_url: str, position: QueuePosition, previews: Previews | None
) -> dict[str, object]:
    if record.status == "SUCCESS":
        avatars = record.outcome.avatars
        shown = [avatar for avatar in avatars if not avatar.withheld]
        keys = [avatar.key for avatar in shown] + [avatar.thumbnail_key for avatar in shown]
        urls = dict(zip(keys, await results.urls(keys, base_url), strict=True))
        return AvatarOutput(
            result=[urls.get(avatar.key) for avatar in avatars],
            low_res_urls=[urls.get(avatar.thumbnail_key) for avatar in avatars],
            Has_NSFW_Content=[avatar.withheld for avatar in avatars],
            seeds=[avatar.seed for avatar in avatars],
            face_similarity=[avatar.face_similarity for avatar in avatars],
            attempts=[list(avatar.attempts) for avatar in avatars],
            receipts=[receipt(record.task.request, avatar) for avatar in avatars],
            warnings=recorded_warnings(record.outcome.warnings),
        ).model_dump()
    if record.finished:
        return {}
    return {"progress": _progress(record, position, previews).model_dump()}


def _progress(record: TaskRecord, position: QueuePosition, previews: Previews | None) -> Progress:
    images, steps = record.task.request.batch, record.task.request.num_inference_steps
    of_each = {index: image.step for index, image in position.drawing.items()} | dict.fromkeys(record.avatars, steps)
    return Progress(
        step=sum(of_each.values()) // images,
        steps=steps,
        images_done=record.images_done,
        images=images,
        queue_position=position.position,
        eta_s=position.eta_s,
        image_steps=[of_each.get(index, 0) for index in range(images)],
        previews=[] if previews is None else previews.pictures(images),
    )


def receipt(request: EffectiveRequest, avatar: StoredAvatar) -> Receipt | None:
    """None where an older version recorded the avatar, without its metadata."""
    drawn = avatar.drawn_with
    if drawn is None:
        return None
    facts = {
        **asdict(drawn),
        **request.model_dump(include={*Receipt.model_fields}),
        "seed": avatar.seed,
        "photos": request.photo_count,
        "drawn_width": avatar.drawn_size[0],
        "drawn_height": avatar.drawn_size[1],
        "drawn_sha256": avatar.drawn_sha256,
    }
    if request.ip_adapter_scale is None:
        facts["ip_adapter_scale"] = drawn.adapter_scale
    return Receipt(**facts)

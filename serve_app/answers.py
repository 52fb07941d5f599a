"""Records as envelopes: what a client is told of its task."""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from deployments.errors import DeadlineError
from deployments.types import ImageProgress
from serve_app.errors import InterruptedWorkError
from serve_app.runner import failed
from serve_app.schemas import AvatarOutput, Envelope, Progress, TimeRequired
from serve_app.storage import Results
from serve_app.tasks import TaskRecord

OVERDUE_S = 5  # what is not recorded so long after its deadline never will be


class Place(NamedTuple):
    """Where an unfinished task is: 1 is next in the queue, 0 is being worked on; `eta_s` is None where unknown.

    `drawing` are those of its images that the generator has, by their index.
    """

    position: int
    eta_s: float | None
    drawing: Mapping[int, ImageProgress] = MappingProxyType({})


NOW = Place(0, None)


def settled(record: TaskRecord, now: float) -> TaskRecord:
    """The record of a task that nobody will finish any more, as the failure that it is; any other as it stands."""
    request = record.task.request
    if record.finished or record.held:
        return record
    if now > record.task.deadline + OVERDUE_S:
        error: Exception = DeadlineError(f"Not done within {request.deadline_s:g} s.")
    elif record.message_id is None:  # not in the queue, and its ingress has died
        error = InterruptedWorkError("The service was interrupted while it worked on this. Send it again.")
    else:
        return record
    return record.model_copy(update={"status": "FAILED", "outcome": failed(error)})


async def envelope_of(record: TaskRecord, results: Results, base_url: str, place: Place = NOW) -> Envelope:
    """The envelope of a task as it stands, its URLs signed now. Raises: StoreError."""
    request, outcome, failure = record.task.request, record.outcome, record.outcome.failure
    return Envelope(
        time_required=TimeRequired(
            startup_time=outcome.startup_s, runtime=round(_runtime_s(record), 4), stages=outcome.stages
        ),
        error=failure.error if failure else "",
        error_data=failure.error_data if failure else "",
        input=request.model_dump(),
        output=await _output(record, results, base_url, place) | _webhook(record),
        app_id=request.app_id,
        task_id=record.task.task_id,
        status=record.status,
    )


def _runtime_s(record: TaskRecord) -> float:
    """Without the time in the queue."""
    if record.started_at is None:
        return 0.0
    return (record.finished_at or time.time()) - record.started_at


def _webhook(record: TaskRecord) -> dict[str, object]:
    return {} if record.delivery is None else {"webhook": record.delivery.model_dump()}


async def _output(record: TaskRecord, results: Results, base_url: str, place: Place) -> dict[str, object]:
    if record.status == "SUCCESS":
        avatars = record.outcome.avatars
        keys = [avatar.key for avatar in avatars] + [avatar.thumbnail_key for avatar in avatars]
        urls = await results.urls(keys, base_url)
        return AvatarOutput(
            result=urls[: len(avatars)],
            low_res_urls=urls[len(avatars) :],
            Has_NSFW_Content=[False] * len(avatars),  # no app of the catalogue has a safety stage yet
            seeds=[avatar.seed for avatar in avatars],
            face_similarity=[avatar.face_similarity for avatar in avatars],
        ).model_dump()
    if record.finished:
        return {}
    return {"progress": _progress(record, place).model_dump()}


def _progress(record: TaskRecord, place: Place) -> Progress:
    images, steps = record.task.request.batch, record.task.request.num_inference_steps
    made = steps * record.images_done + sum(image.step for image in place.drawing.values())
    return Progress(
        step=made // images,
        steps=steps,
        images_done=record.images_done,
        images=images,
        queue_position=place.position,
        eta_s=place.eta_s,
    )

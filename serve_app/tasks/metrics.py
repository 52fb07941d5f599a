"""Metrics of tasks, which Ray exports to Prometheus with the prefix `ray_`.

Labels have low cardinality: errors by their stable name, never a task or a token.
"""

from collections.abc import Iterator

from ray.serve import metrics

from deployments.errors import NoFaceError
from serve_app.errors import ImageUrlError
from serve_app.schemas.errors import ANSWERS
from serve_app.schemas.responses import Status
from serve_app.tasks.models import Failure, Outcome, Task, TaskRecord

STAGE_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120]
WAIT_S = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600]
SIMILARITY = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]  # negative ones count as below 0.1


class TaskMetrics:
    """Outcomes of tasks, durations of stages and face similarities, in an ingress or a worker."""

    def __init__(self) -> None:
        labels = ("kind", "status", "error")
        self._tasks = metrics.Counter("avatar_tasks_total", "Tasks that ended.", labels)
        self._images = metrics.Counter("avatar_images_total", "Images of tasks that succeeded.", ("app", "face"))
        self._stages = metrics.Histogram("avatar_stage_seconds", "Time of a stage, of one image.", STAGE_S, ("stage",))
        self._similarity = metrics.Histogram("avatar_face_similarity", "Of photo and avatar.", SIMILARITY, ("app",))
        self._refused = metrics.Counter("avatar_photos_refused_total", "Photos of no use.", ("reason",))
        self._fallbacks = metrics.Counter(
            "avatar_fallbacks_total", "Tasks that another app draws than the one asked for.", ("asked", "drawn")
        )
        self._wait_s = metrics.Histogram("avatar_queue_wait_seconds", "Until first taken.", WAIT_S, ("priority",))

    def accepted(self, task: Task) -> None:
        """Count a task that another app draws than the one asked for."""
        if task.request.fallback_from is not None:
            self._fallbacks.inc(1, {"asked": task.request.fallback_from, "drawn": task.request.app_id})

    def taken(self, record: TaskRecord) -> None:
        """Count a task that a worker starts."""
        if (wait_s := waited_s(record)) is not None:
            self._wait_s.observe(wait_s, {"priority": record.task.request.priority})

    def ended(self, task: Task, status: Status, outcome: Outcome) -> None:
        """Count a task by kind, status and error, and observe its stages (seconds) and the similarity of its images."""
        kind = "queued" if task.request.celery else "synchronous"
        error = outcome.failure.error if outcome.failure else ""
        self._tasks.inc(1, {"kind": kind, "status": status, "error": error})
        if outcome.failure and (reason := refusal(outcome.failure)):
            self._refused.inc(1, {"reason": reason})
        for stage, seconds in durations(outcome):
            self._stages.observe(seconds, {"stage": stage})
        app = task.request.app_id
        for avatar in outcome.avatars:
            shown = avatar.face_similarity is not None
            self._images.inc(1, {"app": app, "face": "shown" if shown else "none"})
            if avatar.face_similarity is not None:
                self._similarity.observe(avatar.face_similarity, {"app": app})


def waited_s(record: TaskRecord) -> float | None:
    """Seconds that a task waited in the queue; None where it was started before, as it did not only wait."""
    if record.attempts > 1 or record.started_at is None:
        return None
    return max(0.0, record.started_at - record.task.submitted_at)  # clocks of two machines may differ


def durations(outcome: Outcome) -> Iterator[tuple[str, float]]:
    """Stages and their seconds: once for the photo, and for each image that is shown."""
    for stage in ("fetch", "face"):
        if stage in outcome.stages:
            yield stage, outcome.stages[stage]
    for avatar in outcome.avatars:
        if avatar.withheld:  # its times are not kept
            continue
        yield "diffusion", avatar.diffusion_s
        yield "finish", avatar.finish_s
        yield "store", avatar.store_s


def refusal(failure: Failure) -> str | None:
    """The reason why a photo was unusable; None for other failures."""
    if failure.error == ANSWERS[ImageUrlError].name:
        return str(failure.error_data.get("reason", "url"))
    if failure.error == ANSWERS[NoFaceError].name:
        return "face_too_small" if failure.error_data.get("faces_found") else "no_face"
    return None

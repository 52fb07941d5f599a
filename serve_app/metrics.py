"""What the application tells Prometheus, through Ray, which puts `ray_` before the names.

Labels take few values: routes by their pattern, errors by their stable name, never a path, a task or a token. A metric
costs microseconds and no input or output: Ray sends them every 10 s.
"""

import asyncio
import time
from collections.abc import Iterator

from ray.serve import metrics
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import NoFaceError
from serve_app.error_answers import ANSWERS, INTERNAL_ERROR
from serve_app.errors import ImageUrlError
from serve_app.schemas import Status
from serve_app.task_models import Delivery, Failure, Outcome, Task, TaskRecord

REQUEST_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300]
STAGE_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120]
WAIT_S = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600]
SIMILARITY = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]  # what is below 0 counts as below 0.1

OK = "OK"
LEFT = "Client Left"
OTHER_ROUTE = "other"  # the pages for people, and what there is not


class RequestMetrics:
    """An ASGI middleware that counts requests by their route and by how they were answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        labels = ("route", "outcome")
        self._requests = metrics.Counter(
            "avatar_requests_total", "Requests answered; outcome: OK or the error.", labels
        )
        self._seconds = metrics.Histogram("avatar_request_seconds", "From head to last byte.", REQUEST_S, ("route",))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, outcome = time.perf_counter(), ""

        async def send_counted(message: Message) -> None:
            nonlocal outcome
            if message["type"] == "http.response.start":
                outcome = outcome_of(scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        except asyncio.CancelledError:
            outcome = outcome or LEFT
            raise
        finally:
            route = route_of(scope)
            # Without an answer it is a bug, of which the framework makes an answer further out.
            self._requests.inc(1, {"route": route, "outcome": outcome or INTERNAL_ERROR.name})
            self._seconds.observe(time.perf_counter() - started, {"route": route})


def route_of(scope: Scope) -> str:
    """The pattern of the route that took a request."""
    pattern = getattr(scope.get("route"), "path", None)
    return pattern if isinstance(pattern, str) else OTHER_ROUTE


def outcome_of(scope: Scope, status: int) -> str:
    """OK, or the name of the error, which the application left in the request's state."""
    named = scope.get("state", {}).get("outcome")
    if isinstance(named, str):
        return named
    return OK if status < 400 else str(status)


class TaskMetrics:
    """Tasks by how they ended, what their stages took, and how like the avatars are. Of an ingress or a worker."""

    def __init__(self) -> None:
        labels = ("kind", "status", "error")
        self._tasks = metrics.Counter("avatar_tasks_total", "Tasks that ended.", labels)
        self._images = metrics.Counter("avatar_images_total", "Images of tasks that succeeded.", ("app", "face"))
        self._stages = metrics.Histogram("avatar_stage_seconds", "Time of a stage, of one image.", STAGE_S, ("stage",))
        self._similarity = metrics.Histogram("avatar_face_similarity", "Of photo and avatar.", SIMILARITY, ("app",))
        self._refused = metrics.Counter("avatar_photos_refused_total", "Photos of no use.", ("reason",))
        self._wait_s = metrics.Histogram("avatar_queue_wait_seconds", "Until first taken.", WAIT_S, ("priority",))

    def taken(self, record: TaskRecord) -> None:
        """A worker begins a task."""
        if (wait_s := waited_s(record)) is not None:
            self._wait_s.observe(wait_s, {"priority": record.task.request.priority})

    def ended(self, task: Task, status: Status, outcome: Outcome) -> None:
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
    """How long a task was in the queue; None where it was begun before, and its time was not spent waiting alone."""
    if record.attempts > 1 or record.started_at is None:
        return None
    return max(0.0, record.started_at - record.task.submitted_at)  # the clocks of two machines


def durations(outcome: Outcome) -> Iterator[tuple[str, float]]:
    """Stages and their seconds: of the photo once, of every image its own."""
    for stage in ("fetch", "face"):
        if stage in outcome.stages:
            yield stage, outcome.stages[stage]
    for avatar in outcome.avatars:
        yield "diffusion", avatar.diffusion_s
        yield "finish", avatar.finish_s
        yield "store", avatar.store_s


def refusal(failure: Failure) -> str | None:
    """The reason why a photo was of no use; None where the failure was another."""
    if failure.error == ANSWERS[ImageUrlError].name:
        return str(failure.error_data.get("reason", "url"))
    if failure.error == ANSWERS[NoFaceError].name:
        return "face_too_small" if failure.error_data.get("faces_found") else "no_face"
    return None


class WebhookMetrics:
    """Calls of webhooks by how they went."""

    def __init__(self) -> None:
        self._calls = metrics.Counter("avatar_webhook_calls_total", "Webhooks called.", ("outcome",))

    def called(self, delivery: Delivery) -> None:
        self._calls.inc(1, {"outcome": delivery_outcome(delivery)})


def delivery_outcome(delivery: Delivery) -> str:
    if delivery.delivered_at is not None:
        return "delivered"
    return "given up" if delivery.given_up else "failed"

"""Checks of answers: each takes an HTTP answer and returns its content, or raises WrongAnswerError."""

import io
import json

from PIL import Image, UnidentifiedImageError
from requests import RequestException, Response

from serve_app.client import Task, UnexpectedAnswerError
from serve_app.schemas.responses import Envelope

SHOWN_CHARS = 200  # of a wrong answer


class WrongAnswerError(Exception):
    """The answer violates the contract of the service."""


def refusal_s(answer: Response) -> float | None:
    """Seconds to retry after where the service refused the request as overloaded, else None."""
    wait_s = answer.headers.get("Retry-After", "")
    return float(wait_s) if answer.status_code in (429, 503) and wait_s.isdigit() else None


def made(answer: Response, batch: int) -> Task:
    """Avatars of a synchronous request."""
    return with_images(_task(answer, 200), batch)


def queued(answer: Response) -> Task:
    """A task that was accepted with 202; its status is not checked."""
    return _task(answer, 202)


def known(answer: Response, task_id: str) -> Task:
    """A task in any status."""
    task = _task(answer, 200, 202)
    _require(task.task_id == task_id, f"task {task.task_id} instead of {task_id}")
    return task


def last_event(answer: Response, task_id: str) -> Task:
    """The task of the last event of a stream; reads to the end of the stream."""
    _require_status(answer, 200)
    kind = answer.headers.get("Content-Type", "")
    _require(kind.startswith("text/event-stream"), f"{kind} instead of a stream of events")
    try:
        told = [line.removeprefix(b"data: ") for line in answer.iter_lines() if line.startswith(b"data: ")]
    except RequestException as broken:
        raise WrongAnswerError(f"the stream broke off: {broken}") from broken
    _require(bool(told), "a stream without an event")
    try:
        task = Task.from_envelope(json.loads(told[-1]))
    except (ValueError, UnexpectedAnswerError) as error:
        raise WrongAnswerError(str(error)) from error
    _require(task.task_id == task_id, f"task {task.task_id} instead of {task_id}")
    return task


def over(answer: Response, task_id: str) -> Task:
    """A task that is cancelled, or had already ended."""
    task = known(answer, task_id)
    _require(task.status in ("CANCELLED", "SUCCESS"), f"{task.status} after it was cancelled")
    return task


def with_images(task: Task, batch: int) -> Task:
    """A finished task that has all of its avatars."""
    _require(task.status == "SUCCESS", f"{task.status} {task.error} {task.error_data}"[:SHOWN_CHARS])
    found = sum(image.url is not None and image.thumbnail_url is not None for image in task.images)
    _require(found == batch, f"{found} images instead of {batch}")
    return task


def image(answer: Response, size: tuple[int, int]) -> None:
    """The file of an avatar; `size` is width, height."""
    _require_status(answer, 200)
    try:
        found = Image.open(io.BytesIO(answer.content)).size
    except UnidentifiedImageError as error:
        raise WrongAnswerError("the file is not an image") from error
    _require(found == size, f"{found[0]}x{found[1]} instead of {size[0]}x{size[1]}")


def error(answer: Response, status: int, name: str) -> None:
    """An envelope that names the error."""
    envelope = _envelope(answer, status)
    _require(envelope["error"] == name, f"{envelope['error']!r} instead of {name!r}")
    _require(envelope["status"] == "FAILED", f"an error with the status {envelope['status']}")
    _require(bool(envelope["error_data"]), f"{name} without a reason")


def _task(answer: Response, *statuses: int) -> Task:
    try:
        return Task.from_envelope(_envelope(answer, *statuses))
    except UnexpectedAnswerError as unexpected:
        raise WrongAnswerError(str(unexpected)) from unexpected


def _envelope(answer: Response, *statuses: int) -> dict[str, object]:
    _require_status(answer, *statuses)
    try:
        envelope = answer.json()
    except ValueError as no_json:
        raise WrongAnswerError("the answer is not JSON") from no_json
    keys = set(envelope) if isinstance(envelope, dict) else set()
    _require(keys == set(Envelope.model_fields), f"the keys of the envelope are {sorted(keys)}")
    return dict(envelope)


def _require_status(answer: Response, *statuses: int) -> None:
    if answer.status_code not in statuses:
        wanted = " or ".join(map(str, statuses))
        raise WrongAnswerError(f"{answer.status_code} instead of {wanted}: {answer.text[:SHOWN_CHARS]}")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise WrongAnswerError(problem)

"""Routes that generate avatars."""

from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

from serve_app.api.body import BodyReader
from serve_app.api.dependencies import RequestProgress, base_url, envelope_response, idempotency_key, retry_headers
from serve_app.api.openapi import IDEMPOTENCY_PARAMETER, body_of, envelopes
from serve_app.api.settings import IngressSettings
from serve_app.generation.service import AvatarService
from serve_app.generation.validation import Caller
from serve_app.schemas.requests import AvatarRequest
from serve_app.schemas.responses import Envelope
from serve_app.tasks.models import TaskRecord

CREATE_ROUTES = {
    "/getImageToImage": (
        "getImageToImage",
        "Generate avatars of the face on a photo",
        "Waits for the images; with `celery: true` queues the request, and answers 202 with a `task_id`.",
    ),
    "/getImagetoImage": (
        "getImageToImageAlias",  # not by case alone: programs that are made from the document would clash
        "Generate avatars: another spelling of /getImageToImage",
        "The same route. The API that this one is compatible with spells it both ways, and so do its clients.",
    ),
}
"""Paths, with the ids, summaries and descriptions of their operations."""


def add_avatar_routes(
    api: FastAPI, service: AvatarService, settings: IngressSettings, bodies: BodyReader, token: Any
) -> None:
    """Add `POST` on CREATE_ROUTES; `token` is a dependency that requires the right `create`."""

    async def create(request: Request) -> JSONResponse:
        progress = request.state.progress = RequestProgress()
        links = base_url(request, settings)
        caller = Caller(request.state.owner, idempotency_key(request), links, request.state.token)
        async with bodies.model(AvatarRequest, request, progress) as avatar_request:
            progress.task = service.validator.task(avatar_request, caller)
            record = await service.creation.create(progress.task, avatar_request, caller)
        status, headers = _status_and_headers(record)
        if avatar_request.celery:
            status, headers = 200 if record.finished else 202, {}
        elif record.outcome.failure is not None:
            request.state.outcome = record.outcome.failure.error
        return envelope_response(await service.envelope(record, links), status, headers)

    for path, (operation_id, summary, description) in CREATE_ROUTES.items():
        api.post(
            path,
            dependencies=[token],
            summary=summary,
            description=description,
            operation_id=operation_id,
            response_model=Envelope,
            responses=envelopes(200, 202, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503, 504),
            openapi_extra={"parameters": [IDEMPOTENCY_PARAMETER], **body_of(AvatarRequest)},
        )(create)


def _status_and_headers(record: TaskRecord) -> tuple[int, dict[str, str]]:
    """HTTP status and headers of a finished synchronous request; those of its error if it failed."""
    failure = record.outcome.failure
    if failure is None:
        return 200, {}
    return failure.status, retry_headers(failure)

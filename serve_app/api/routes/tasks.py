"""Routes that read, follow and cancel tasks."""

from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.responses import JSONResponse, StreamingResponse

from serve_app.api.body import BodyReader
from serve_app.api.dependencies import base_url, envelope_response
from serve_app.api.openapi import EVENT_STREAM, body_of, envelopes
from serve_app.api.settings import IngressSettings
from serve_app.api.sse import Subscription, check_room, follow, last_event_id
from serve_app.auth.access import Access
from serve_app.generation.service import AvatarService
from serve_app.schemas.requests import StatusRequest
from serve_app.schemas.responses import Envelope
from serve_app.tasks.models import TaskRecord


def add_task_routes(
    api: FastAPI,
    service: AvatarService,
    settings: IngressSettings,
    bodies: BodyReader,
    *,
    may_read: Any,
    may_cancel: Any,
) -> None:
    """Add the routes that read and cancel a task; `may_read`, `may_cancel`: dependencies that require these rights."""

    async def answer(request: Request, record: TaskRecord) -> JSONResponse:
        return envelope_response(await service.envelope(record, base_url(request, settings)))

    @api.get(
        "/api/v1/tasks/{task_id}",
        operation_id="getTask",
        summary="Get a task",
        dependencies=[may_read],
        response_model=Envelope,
        responses=envelopes(401, 403, 404, 422, 429, 503),
    )
    async def task(request: Request, task_id: str) -> JSONResponse:
        """A task as it stands, whatever its `status`: URLs are signed anew."""
        return await answer(request, await service.find(task_id, request.state.owner))

    @api.post(
        "/getImage",
        operation_id="getImage",
        summary="Get a task by the id in the body",
        dependencies=[may_read],
        response_model=Envelope,
        responses=envelopes(401, 403, 404, 413, 415, 422, 429, 503),
        openapi_extra=body_of(StatusRequest),
    )
    async def get_image(request: Request) -> JSONResponse:
        """As `GET /api/v1/tasks/{task_id}`, which clients of the compatible API know as this."""
        async with bodies.model(StatusRequest, request) as body:
            return await answer(request, await service.find(body.id, request.state.owner))

    @api.delete(
        "/api/v1/tasks/{task_id}",
        operation_id="cancelTask",
        summary="Cancel a task, or delete its results",
        dependencies=[may_cancel],
        response_model=Envelope,
        responses=envelopes(401, 403, 404, 422, 429, 503),
    )
    async def cancel(request: Request, task_id: str) -> JSONResponse:
        """Cancel an unfinished task; delete the results of a finished one. May be repeated."""
        return await answer(request, await service.cancel(task_id, request.state.owner))


def add_event_route(
    api: FastAPI, service: AvatarService, access: Access, settings: IngressSettings, *, may_read: Any
) -> None:
    """Add the route that follows a task; `may_read` is a dependency that requires this right."""

    @api.get(
        "/api/v1/tasks/{task_id}/events",
        operation_id="followTask",
        summary="Follow a task as server-sent events",
        dependencies=[may_read],
        response_class=StreamingResponse,
        responses=envelopes(401, 403, 404, 422, 429, 503) | EVENT_STREAM,
    )
    async def events(request: Request, task_id: str) -> Response:
        """Server-sent events: a `progress` for every change, then `finished`; the data are envelopes.

        `Last-Event-ID` takes up a stream that broke off. 204: that was the last one.

        The stream ends when its token is revoked or expires.
        """
        record = await service.find(task_id, request.state.owner)
        last_seen = last_event_id(request.headers.get("last-event-id"))
        if record.finished and last_seen == record.revision:
            return Response(status_code=204)  # otherwise EventSource reconnects after the end
        check_room(service, record.task.owner)
        subscription = Subscription(record, request.state.token, base_url(request, settings), last_seen)
        stream = follow(service, access, subscription)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

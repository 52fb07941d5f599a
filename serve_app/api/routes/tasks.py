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

READ = envelopes(401, 403, 404, 422, 429, 503)


class TaskRoutes:
    """What the routes of one task answer."""

    def __init__(self, service: AvatarService, access: Access, settings: IngressSettings, bodies: BodyReader) -> None:
        self._service = service
        self._access = access
        self._settings = settings
        self._bodies = bodies

    async def task(self, request: Request, task_id: str) -> JSONResponse:
        """A task as it stands, whatever its `status`: URLs are signed anew."""
        return await self._answer(request, await self._service.find(task_id, request.state.owner))

    async def get_image(self, request: Request) -> JSONResponse:
        """The same, with the id in the body."""
        async with self._bodies.model(StatusRequest, request) as body:
            return await self._answer(request, await self._service.find(body.id, request.state.owner))

    async def events(self, request: Request, task_id: str) -> Response:
        """Server-sent events: a `progress` for every change, then `finished`; the data are envelopes.

        `Last-Event-ID` takes up a stream that broke off. 204: that was the last one.

        The stream ends when its token is revoked or expires.
        """
        record = await self._service.find(task_id, request.state.owner)
        last_seen = last_event_id(request.headers.get("last-event-id"))
        if record.finished and last_seen == record.revision:
            return Response(status_code=204)  # otherwise EventSource reconnects after the end
        check_room(self._service, record.task.owner)
        subscription = Subscription(record, request.state.token, base_url(request, self._settings), last_seen)
        stream = follow(self._service, self._access, subscription)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    async def cancel(self, request: Request, task_id: str) -> JSONResponse:
        """Cancel an unfinished task; delete the results of a finished one. May be repeated."""
        return await self._answer(request, await self._service.cancel(task_id, request.state.owner))

    async def _answer(self, request: Request, record: TaskRecord) -> JSONResponse:
        return envelope_response(await self._service.envelope(record, base_url(request, self._settings)))


def add_task_routes(api: FastAPI, routes: TaskRoutes, *, may_read: Any, may_cancel: Any) -> None:
    """Add the routes of one task; `may_read` and `may_cancel` are dependencies that require these rights."""
    path = "/api/v1/tasks/{task_id}"
    as_envelope: Any = {"response_model": Envelope, "responses": READ}
    body: Any = {"responses": READ | envelopes(413, 415), "openapi_extra": body_of(StatusRequest)}
    api.get(path, dependencies=[may_read], **as_envelope)(routes.task)
    api.post("/getImage", dependencies=[may_read], **as_envelope | body)(routes.get_image)
    stream: Any = {"response_class": StreamingResponse, "responses": READ | EVENT_STREAM}
    api.get(f"{path}/events", dependencies=[may_read], **stream)(routes.events)
    api.delete(path, dependencies=[may_cancel], **as_envelope)(routes.cancel)

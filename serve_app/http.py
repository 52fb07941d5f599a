"""The HTTP surface: routes, and how every answer becomes an envelope."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp

import serve_app
from deployments.errors import AvatarError
from serve_app.access import Access
from serve_app.bodies import BodyReader
from serve_app.error_answers import INTERNAL_ERROR, ErrorAnswer, answer_to
from serve_app.errors import (
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    OverloadedError,
    RateLimitError,
    UnauthorizedError,
)
from serve_app.events import check_room, follow, last_event_id
from serve_app.headers import with_headers
from serve_app.intake import Caller
from serve_app.metrics import RequestMetrics
from serve_app.operations import EVENT_STREAM, IDEMPOTENCY_PARAMETER, MAX_IDEMPOTENCY_CHARS, body_of, envelopes
from serve_app.playground import add_playground
from serve_app.preflight import FacesRequest
from serve_app.request_progress import RequestProgress
from serve_app.schemas import AvatarRequest, Envelope, StatusRequest
from serve_app.service import AvatarService
from serve_app.settings import Settings
from serve_app.storage import FILES_ROUTE, media_type
from serve_app.task_models import TaskRecord
from serve_app.verify import VerifyRequest

CREATE_ROUTES = ("/getImageToImage", "/getImagetoImage")  # existing clients know both spellings
PROBE_TIMEOUT_S = 5

StageStates = Callable[[], Awaitable[dict[str, str]]]
"""What each stage is doing now: HEALTHY, UPSCALING, ... as Serve calls it."""


def build_http(service: AvatarService, access: Access, settings: Settings, stage_states: StageStates) -> ASGIApp:
    """The ASGI application of one ingress replica."""

    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.close()

    api = FastAPIOffline(
        title="Face Avatar",
        version=serve_app.__version__,
        description="One photo of a face in, consistent avatars of that face out.",
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    api.add_middleware(RequestMetrics)
    _add_error_handlers(api)
    authenticate = _authenticator(access)
    token = Security(authenticate)
    may_create, may_read, may_cancel = (
        Security(authenticate, scopes=[scope]) for scope in ("create", "read", "cancel")
    )
    bodies = BodyReader(settings.max_body_bytes)
    _add_create_routes(api, service, settings, bodies, may_create)
    _add_task_routes(api, service, settings, bodies, may_read)
    _add_cancel_route(api, service, settings, may_cancel)
    _add_photo_routes(api, service, bodies, may_create)
    _add_other_routes(api, service, token)
    _add_status_routes(api, service, stage_states)
    add_playground(api, results_elsewhere=settings.store.is_shared)
    return with_headers(api, settings.cors, settings.public_url)


def _authenticator(access: Access) -> Callable[..., Awaitable[None]]:
    bearer = HTTPBearer(auto_error=False, description="A token of the service.")

    async def authenticate(
        request: Request,
        rights: SecurityScopes,
        _shown: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)] = None,
    ) -> None:
        wanted: Any = rights.scopes
        admitted = await access.admit(request.headers.get("authorization"), wanted)
        request.state.token, request.state.owner = admitted.token, admitted.token.owner
        if admitted.quota is not None:
            request.state.answer_headers = admitted.quota.headers()

    return authenticate


def _add_create_routes(
    api: FastAPI, service: AvatarService, settings: Settings, bodies: BodyReader, token: Any
) -> None:
    async def create(request: Request) -> JSONResponse:
        progress = request.state.progress = RequestProgress()
        key, base_url = _idempotency_key(request), _base_url(request, settings)
        caller = Caller(request.state.owner, key, base_url, request.state.token)
        avatar_request = await bodies.model(AvatarRequest, request, progress)
        progress.task = service.intake.task(avatar_request, caller)
        record = await service.create(progress.task, avatar_request, caller)
        status, headers = _answer_of_a_wait(record)
        if avatar_request.celery:
            status, headers = 200 if record.finished else 202, {}
        elif record.outcome.failure is not None:
            request.state.outcome = record.outcome.failure.error
        return _envelope(await service.envelope(record, _base_url(request, settings)), status, headers)

    for path in CREATE_ROUTES:
        api.post(
            path,
            dependencies=[token],
            summary="Generate avatars of the face on a photo",
            operation_id=path.lstrip("/"),
            response_model=Envelope,
            responses=envelopes(200, 202, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503, 504),
            openapi_extra={"parameters": [IDEMPOTENCY_PARAMETER], **body_of(AvatarRequest)},
        )(create)


def _add_task_routes(api: FastAPI, service: AvatarService, settings: Settings, bodies: BodyReader, token: Any) -> None:
    async def answer(request: Request, record: TaskRecord) -> JSONResponse:
        return _envelope(await service.envelope(record, _base_url(request, settings)))

    @api.get(
        "/api/v1/tasks/{task_id}",
        dependencies=[token],
        response_model=Envelope,
        responses=envelopes(401, 403, 404, 422, 429, 503),
    )
    async def task(request: Request, task_id: str) -> JSONResponse:
        """A task as it stands, whatever its `status`: URLs are signed anew."""
        return await answer(request, await service.find(task_id, request.state.owner))

    @api.post(
        "/getImage",
        dependencies=[token],
        response_model=Envelope,
        responses=envelopes(401, 403, 404, 413, 415, 422, 429, 503),
        openapi_extra=body_of(StatusRequest),
    )
    async def get_image(request: Request) -> JSONResponse:
        """The same, with the id in the body."""
        asked = await bodies.model(StatusRequest, request)
        return await answer(request, await service.find(asked.id, request.state.owner))

    @api.get(
        "/api/v1/tasks/{task_id}/events",
        dependencies=[token],
        response_class=StreamingResponse,
        responses=envelopes(401, 403, 404, 422, 429, 503) | EVENT_STREAM,
    )
    async def events(request: Request, task_id: str) -> Response:
        """Server-sent events: a `progress` for every change, then `finished`; the data are envelopes.

        `Last-Event-ID` takes up a stream that broke off. 204: that was the last one.
        """
        record = await service.find(task_id, request.state.owner)
        seen = last_event_id(request.headers.get("last-event-id"))
        if record.finished and seen == record.revision:
            return Response(status_code=204)  # EventSource comes back after the end, unless it is told this
        check_room(service, record.task.owner)
        stream = follow(service, record, _base_url(request, settings), seen)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


def _add_cancel_route(api: FastAPI, service: AvatarService, settings: Settings, token: Any) -> None:
    @api.delete(
        "/api/v1/tasks/{task_id}",
        dependencies=[token],
        response_model=Envelope,
        responses=envelopes(401, 403, 404, 422, 429, 503),
    )
    async def cancel(request: Request, task_id: str) -> JSONResponse:
        """Cancel an unfinished task; delete the results of a finished one. May be repeated."""
        record = await service.cancel(task_id, request.state.owner)
        return _envelope(await service.envelope(record, _base_url(request, settings)))


def _add_photo_routes(api: FastAPI, service: AvatarService, bodies: BodyReader, token: Any) -> None:
    @api.post(
        "/api/v1/faces",
        dependencies=[token],
        response_model=Envelope,
        responses=envelopes(401, 403, 413, 415, 422, 429, 503, 504),
        openapi_extra=body_of(FacesRequest),
    )
    async def faces(request: Request) -> JSONResponse:
        """The faces of a photo and whether it would be accepted, before anything is generated."""
        request.state.progress = RequestProgress()
        asked = await bodies.model(FacesRequest, request)
        seen = await service.preflight(asked.file_url)
        return _envelope(seen.envelope(asked.file_url))

    @api.post(
        "/api/v1/verify",
        dependencies=[token],
        response_model=Envelope,
        responses=envelopes(401, 403, 413, 415, 422, 429, 503, 504),
        openapi_extra=body_of(VerifyRequest),
    )
    async def verify(request: Request) -> JSONResponse:
        """Whether a picture is one of ours and as it left us, by its content credentials (C2PA)."""
        progress = request.state.progress = RequestProgress()
        asked = await bodies.model(VerifyRequest, request)
        found = await service.verify(asked.file_url)
        return _envelope(found.envelope(asked.file_url, time.perf_counter() - progress.started))


def _add_other_routes(api: FastAPI, service: AvatarService, token: Any) -> None:
    @api.get("/api/v1/apps", dependencies=[token], response_model=Envelope, responses=envelopes(401, 429, 503))
    async def apps() -> JSONResponse:
        """The apps that `app_id` can name: titles, licences of their weights, native sizes, defaults."""
        return _envelope(Envelope(output={"apps": service.apps(), "consent_required": service.consent_required}))

    @api.get(
        "/api/v1/webhook-secret",
        dependencies=[token],
        response_model=Envelope,
        responses=envelopes(401, 429, 503),
    )
    async def webhook_secret(request: Request) -> JSONResponse:
        """The secret that signs what the webhooks of this token get (Standard Webhooks: `whsec_…`)."""
        return _envelope(Envelope(output={"webhook_secret": service.webhook_secret(request.state.owner)}))

    @api.head(FILES_ROUTE + "/{key:path}", include_in_schema=False)
    @api.get(FILES_ROUTE + "/{key:path}", responses=envelopes(403, 404, 422, 503))
    async def files(key: str, expires: str = "", signature: str = "") -> Response:
        """A result or thumbnail, under the URL that an answer gave."""
        service.results.check_signature(key, expires, signature)
        # Whoever has the URL may show the picture, on a page of their own, too.
        headers = {"Cache-Control": "private, max-age=3600", "Cross-Origin-Resource-Policy": "cross-origin"}
        return Response(await service.results.get(key), media_type=media_type(key), headers=headers)


def _add_status_routes(api: FastAPI, service: AvatarService, stage_states: StageStates) -> None:
    @api.head("/healthz", include_in_schema=False)
    @api.get("/healthz", response_model=Envelope)
    async def healthz() -> JSONResponse:
        """The process lives."""
        return _envelope(Envelope(output={"healthy": True}))

    @api.head("/readyz", include_in_schema=False)
    @api.get("/readyz", response_model=Envelope, responses=envelopes(503))
    async def readyz() -> JSONResponse:
        """The ingress, the broker and the store answer; lists the stages, which may be at zero replicas."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await service.check()
                stages = await stage_states()
        except TimeoutError:
            raise OverloadedError(f"No answer within {PROBE_TIMEOUT_S} s.") from None
        return _envelope(Envelope(output={"ready": True, "stages": stages}))


def _idempotency_key(request: Request) -> str | None:
    """Raises: InvalidRequestError."""
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= MAX_IDEMPOTENCY_CHARS):
        problem = {"field": "Idempotency-Key", "message": f"must have 1 to {MAX_IDEMPOTENCY_CHARS} characters"}
        raise InvalidRequestError("The request is not valid.", fields=[problem])
    return key


def _answer_of_a_wait(record: TaskRecord) -> tuple[int, dict[str, str]]:
    """HTTP status and headers for who waited for a task: of a failed one those of its error."""
    failure = record.outcome.failure
    if failure is None:
        return 200, {}
    retry_after_s = failure.error_data.get("retry_after_s")
    return failure.status, {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}


def _base_url(request: Request, settings: Settings) -> str:
    return settings.public_url or str(request.base_url)


def _envelope(envelope: Envelope, status: int = 200, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(envelope.model_dump(), status, headers)


def _add_error_handlers(api: FastAPI) -> None:
    def failed(request: Request, answer: ErrorAnswer, data: dict[str, Any], headers: dict[str, str]) -> JSONResponse:
        progress = getattr(request.state, "progress", None) or RequestProgress()
        request.state.outcome = answer.name  # for the metrics
        failure = {"error": answer.name, "error_data": data, "status": "FAILED"}
        return _envelope(progress.envelope().model_copy(update=failure), answer.status, headers)

    @api.exception_handler(AvatarError)
    async def on_avatar_error(request: Request, error: AvatarError) -> JSONResponse:
        headers = {}
        if isinstance(error, OverloadedError):
            headers["Retry-After"] = str(error.retry_after_s)
        if isinstance(error, RateLimitError):
            headers |= error.headers
        if isinstance(error, UnauthorizedError):
            headers["WWW-Authenticate"] = "Bearer"
        return failed(request, answer_to(error), error.data, headers)

    @api.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        method, path = request.method, request.url.path[:200]
        if error.status_code == 405:
            known: AvatarError = MethodNotAllowedError(f"{path} does not take {method}.", accepted=headers.get("Allow"))
        else:
            known = NotFoundError(f"There is nothing at {path}.")
        return failed(request, answer_to(known), known.data, headers)

    @api.exception_handler(Exception)
    async def on_bug(request: Request, _error: Exception) -> JSONResponse:
        message = "Something went wrong here; the log of the service has it under this request id."
        # Serve's proxy gives every request an id, tells the application, and sets the answer's header.
        request_id = request.headers.get("x-request-id", "")
        return failed(request, INTERNAL_ERROR, {"message": message, "request_id": request_id}, {})

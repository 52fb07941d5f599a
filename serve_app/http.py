"""The HTTP surface: routes, how a body is read, and how every answer becomes an envelope."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp

import serve_app
from deployments.errors import AvatarError, DeadlineError
from serve_app.access import Access
from serve_app.errors import (
    INTERNAL_ERROR,
    ErrorAnswer,
    InvalidRequestError,
    MediaTypeError,
    MethodNotAllowedError,
    NotFoundError,
    OverloadedError,
    RateLimitError,
    TooLargeError,
    UnauthorizedError,
    answer_to,
    invalid_fields,
)
from serve_app.events import check_room, follow, last_event_id
from serve_app.examples import answer_examples, request_examples
from serve_app.form import form_schema, read_form
from serve_app.headers import with_headers
from serve_app.metrics import RequestMetrics
from serve_app.playground import add_playground
from serve_app.preflight import FacesRequest
from serve_app.schemas import AvatarRequest, Envelope, StatusRequest, TimeRequired
from serve_app.service import AvatarService, Caller
from serve_app.settings import Settings
from serve_app.storage import FILES_ROUTE, media_type
from serve_app.tasks import Task, TaskRecord
from serve_app.verify import VerifyRequest

CREATE_ROUTES = ("/getImageToImage", "/getImagetoImage")  # existing clients know both spellings
JSON, FORM = "application/json", "multipart/form-data"
BODY_TIMEOUT_S = 30
MAX_OPEN_BODIES = 128  # being read at once; far fewer than the replica's max_ongoing_requests
PROBE_TIMEOUT_S = 5
MAX_IDEMPOTENCY_CHARS = 255
IDEMPOTENCY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "With the same key, token and body a request is the same task: nothing is generated twice.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_CHARS},
}
EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
    204: {"description": "`Last-Event-ID` was the last event."},
}

M = TypeVar("M", bound=BaseModel)
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
    may_create = Security(authenticate, scopes=["create"])
    _add_create_routes(api, service, settings, may_create)
    _add_task_routes(api, service, settings, Security(authenticate, scopes=["read"]))
    _add_cancel_route(api, service, settings, Security(authenticate, scopes=["cancel"]))
    _add_preflight_route(api, service, settings, may_create)
    _add_verify_route(api, service, settings, may_create)
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


def _add_create_routes(api: FastAPI, service: AvatarService, settings: Settings, token: Any) -> None:
    bodies = BodyReader(settings.max_body_bytes)

    async def create(request: Request) -> JSONResponse:
        progress = request.state.progress = RequestProgress()
        key, base_url = _idempotency_key(request), _base_url(request, settings)
        caller = Caller(request.state.owner, key, base_url, request.state.token)
        avatar_request = await _read_model(AvatarRequest, request, bodies, progress)
        progress.task = service.new_task(avatar_request, caller)
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
            responses=_envelopes(200, 202, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503, 504),
            openapi_extra={"parameters": [IDEMPOTENCY_PARAMETER], **_body(AvatarRequest)},
        )(create)


def _add_task_routes(api: FastAPI, service: AvatarService, settings: Settings, token: Any) -> None:
    bodies = BodyReader(settings.max_body_bytes)

    async def answer(request: Request, record: TaskRecord) -> JSONResponse:
        return _envelope(await service.envelope(record, _base_url(request, settings)))

    @api.get(
        "/api/v1/tasks/{task_id}",
        dependencies=[token],
        response_model=Envelope,
        responses=_envelopes(401, 403, 404, 422, 429, 503),
    )
    async def task(request: Request, task_id: str) -> JSONResponse:
        """A task as it stands, whatever its `status`: URLs are signed anew."""
        return await answer(request, await service.find(task_id, request.state.owner))

    @api.post(
        "/getImage",
        dependencies=[token],
        response_model=Envelope,
        responses=_envelopes(401, 403, 404, 413, 415, 422, 429, 503),
        openapi_extra=_body(StatusRequest),
    )
    async def get_image(request: Request) -> JSONResponse:
        """The same, with the id in the body."""
        asked = await _read_model(StatusRequest, request, bodies)
        return await answer(request, await service.find(asked.id, request.state.owner))

    @api.get(
        "/api/v1/tasks/{task_id}/events",
        dependencies=[token],
        response_class=StreamingResponse,
        responses=_envelopes(401, 403, 404, 422, 429, 503) | EVENT_STREAM,
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
        responses=_envelopes(401, 403, 404, 422, 429, 503),
    )
    async def cancel(request: Request, task_id: str) -> JSONResponse:
        """Cancel an unfinished task; delete the results of a finished one. May be repeated."""
        record = await service.cancel(task_id, request.state.owner)
        return _envelope(await service.envelope(record, _base_url(request, settings)))


def _add_preflight_route(api: FastAPI, service: AvatarService, settings: Settings, token: Any) -> None:
    bodies = BodyReader(settings.max_body_bytes)

    @api.post(
        "/api/v1/faces",
        dependencies=[token],
        response_model=Envelope,
        responses=_envelopes(401, 403, 413, 415, 422, 429, 503, 504),
        openapi_extra=_body(FacesRequest),
    )
    async def faces(request: Request) -> JSONResponse:
        """The faces of a photo and whether it would be accepted, before anything is generated."""
        request.state.progress = RequestProgress()
        asked = await _read_model(FacesRequest, request, bodies)
        seen = await service.preflight(asked.file_url)
        return _envelope(seen.envelope(asked.file_url))


def _add_verify_route(api: FastAPI, service: AvatarService, settings: Settings, token: Any) -> None:
    bodies = BodyReader(settings.max_body_bytes)

    @api.post(
        "/api/v1/verify",
        dependencies=[token],
        response_model=Envelope,
        responses=_envelopes(401, 403, 413, 415, 422, 429, 503, 504),
        openapi_extra=_body(VerifyRequest),
    )
    async def verify(request: Request) -> JSONResponse:
        """Whether a picture is one of ours and as it left us, by its content credentials (C2PA)."""
        progress = request.state.progress = RequestProgress()
        asked = await _read_model(VerifyRequest, request, bodies)
        found = await service.verify(asked.file_url)
        return _envelope(found.envelope(asked.file_url, time.perf_counter() - progress.started))


def _add_other_routes(api: FastAPI, service: AvatarService, token: Any) -> None:
    @api.get("/api/v1/apps", dependencies=[token], response_model=Envelope, responses=_envelopes(401, 429, 503))
    async def apps() -> JSONResponse:
        """The apps that `app_id` can name: titles, licences of their weights, native sizes, defaults."""
        return _envelope(Envelope(output={"apps": service.apps(), "consent_required": service.consent_required}))

    @api.get(
        "/api/v1/webhook-secret",
        dependencies=[token],
        response_model=Envelope,
        responses=_envelopes(401, 429, 503),
    )
    async def webhook_secret(request: Request) -> JSONResponse:
        """The secret that signs what the webhooks of this token get (Standard Webhooks: `whsec_…`)."""
        return _envelope(Envelope(output={"webhook_secret": service.webhook_secret(request.state.owner)}))

    @api.head(FILES_ROUTE + "/{key:path}", include_in_schema=False)
    @api.get(FILES_ROUTE + "/{key:path}", responses=_envelopes(403, 404, 422, 503))
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
    @api.get("/readyz", response_model=Envelope, responses=_envelopes(503))
    async def readyz() -> JSONResponse:
        """The ingress, the broker and the store answer; lists the stages, which may be at zero replicas."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await service.check()
                stages = await stage_states()
        except TimeoutError:
            raise OverloadedError(f"No answer within {PROBE_TIMEOUT_S} s.") from None
        return _envelope(Envelope(output={"ready": True, "stages": stages}))


@dataclass
class RequestProgress:
    """How far a request came: enough for the envelope of an error."""

    started: float = field(default_factory=time.perf_counter)
    app_id: str = ""
    task: Task | None = None

    def envelope(self) -> Envelope:
        return Envelope(
            time_required=TimeRequired(runtime=round(time.perf_counter() - self.started, 4)),
            input=self.task.request.model_dump() if self.task else {},
            app_id=self.app_id,
            task_id=self.task.task_id if self.task else "",
        )


class BodyReader:
    """Reads bodies within limits on size and time, few at once: clients that stall must not fill the replica."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._open = 0

    async def read(self, request: Request) -> bytes:
        """Raises: TooLargeError as soon as too much is announced or has come; DeadlineError; OverloadedError."""
        if self._open >= MAX_OPEN_BODIES:
            raise OverloadedError(f"{self._open} requests are on their way in already.")
        announced = request.headers.get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced) > self._max_bytes:
            raise self._too_large()
        self._open += 1
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await self._read(request)
        except TimeoutError:
            raise DeadlineError(f"The body did not arrive within {BODY_TIMEOUT_S} s.") from None
        except ClientDisconnect:
            raise InvalidRequestError("The client left before its request was complete.", fields=[]) from None
        finally:
            self._open -= 1

    async def _read(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_bytes:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"The body is larger than {self._max_bytes} bytes.", max_bytes=self._max_bytes)


async def _read_model(
    model: type[M], request: Request, bodies: BodyReader, progress: RequestProgress | None = None
) -> M:
    """The body of a request, checked; a form only where there is a photo to send.

    Raises: MediaTypeError, InvalidRequestError, and what BodyReader raises.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    accepted = [JSON, FORM] if "file_url" in model.model_fields else [JSON]
    if kind not in accepted:
        raise MediaTypeError(f"The content type is {kind or 'missing'}.", accepted=" or ".join(accepted))
    body = await bodies.read(request)
    data = await read_form(body, content_type, model) if kind == FORM else _read_json(body)
    if progress is not None and isinstance(data, dict) and isinstance(data.get("app_id"), str):
        progress.app_id = data["app_id"][:64]
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid_fields(error, model) from None


def _read_json(body: bytes) -> Any:
    """Raises: InvalidRequestError."""
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        problem = {"field": "body", "message": f"not valid JSON: {error}"}
        raise InvalidRequestError("The body is not valid JSON.", fields=[problem]) from None


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


def _envelopes(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": Envelope, "content": {JSON: {"examples": answer_examples(status)}}} for status in statuses
    }


def _body(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    content = {JSON: {"schema": schema, "examples": request_examples(model)}}
    if "file_url" in model.model_fields:
        content[FORM] = {"schema": form_schema(schema)}
    return {"requestBody": {"required": True, "content": content}}


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

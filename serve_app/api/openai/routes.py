"""Routes of OpenAI's API: images made from a photo, and the models that can be named."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from starlette.responses import JSONResponse, StreamingResponse

from serve_app.api.body import BodyReader
from serve_app.api.dependencies import RequestProgress, base_url, idempotency_key, retry_headers
from serve_app.api.openai.answers import Images, failure_of, images_of
from serve_app.api.openai.requests import PHOTO, ImageEditRequest
from serve_app.api.openai.streaming import EditEvent, StreamedEdit, encoded
from serve_app.api.openai_errors import OpenAIErrorBody, error_response
from serve_app.api.openapi import EVENT_STREAM, IDEMPOTENCY_PARAMETER, PHRASES, body_of
from serve_app.api.settings import IngressSettings
from serve_app.errors import InvalidRequestError, NotFoundError
from serve_app.generation.service import AvatarService
from serve_app.generation.validation import Caller
from serve_app.schemas.errors import invalid_fields
from serve_app.tasks.models import Failure

OWNED_BY = "face-avatar"


def add_openai_routes(
    api: FastAPI, service: AvatarService, settings: IngressSettings, bodies: BodyReader, *, token: Any, may_create: Any
) -> None:
    """Add `/v1`; `token` and `may_create` are dependencies that accept any token, and those with the right `create`."""

    def app_ids() -> list[str]:
        return [app["app_id"] for app in service.apps()]

    def fast_apps() -> list[str]:
        return [app["app_id"] for app in service.apps() if "fast" in app["qualities"]]

    @api.post(
        "/v1/images/edits",
        dependencies=[may_create],
        operation_id="openai_images_edit",
        summary="Generate avatars, for clients of OpenAI's images API",
        response_model=Images,
        responses=_errors(401, 403, 404, 409, 413, 415, 422, 429, 500, 503, 504) | {200: EVENT_STREAM[200]},
        openapi_extra={"parameters": [IDEMPOTENCY_PARAMETER], **body_of(ImageEditRequest, PHOTO)},
    )
    async def edit(request: Request) -> Response:
        """Avatars of the face on a photo, for clients of OpenAI's images API."""
        progress = request.state.progress = RequestProgress()
        links = base_url(request, settings)
        caller = Caller(request.state.owner, idempotency_key(request), links, request.state.token)
        async with AsyncExitStack() as held:
            body = await held.enter_async_context(bodies.model(ImageEditRequest, request, photo=PHOTO))
            try:
                avatar_request = body.avatar_request(app_ids()[0], fast_apps())
            except ValidationError as error:
                raise invalid_fields(error, ImageEditRequest) from None
            progress.app_id = avatar_request.app_id
            progress.task = service.validator.task(avatar_request, caller)
            if body.stream:
                edit = StreamedEdit(service, progress.task, body, avatar_request, caller, held.pop_all())
                return await streamed(request, edit.events())
            record = await service.creation.create(progress.task, avatar_request, caller)
        if (failure := failure_of(record)) is not None:
            return refused(request, failure)
        answer = await images_of(record, body, service, links)
        return JSONResponse(answer.model_dump(exclude_none=True))

    async def streamed(request: Request, events: AsyncGenerator[EditEvent | Failure, None]) -> Response:
        """Until the first event an error has its own HTTP status."""
        first = await anext(events)
        if isinstance(first, Failure):
            return refused(request, first)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(encoded(first, events), media_type="text/event-stream", headers=headers)

    def refused(request: Request, failure: Failure) -> JSONResponse:
        request.state.outcome = failure.error
        return error_response(failure.status, failure.error, failure.error_data, retry_headers(failure))

    @api.post("/v1/images/generations", dependencies=[may_create], include_in_schema=False)
    async def generations() -> JSONResponse:
        """There is no avatar without a face."""
        message = "An avatar needs a photo: POST /v1/images/edits with an image."
        raise InvalidRequestError(message, fields=[{"field": "image", "message": "a photo of a face"}])

    @api.get(
        "/v1/models",
        operation_id="openai_list_models",
        summary="List the apps as OpenAI's models",
        dependencies=[token],
        responses=_errors(401, 429, 503),
    )
    async def models() -> JSONResponse:
        """The apps, as models."""
        return JSONResponse({"object": "list", "data": [_model(app_id) for app_id in app_ids()]})

    @api.get(
        "/v1/models/{model}",
        operation_id="openai_get_model",
        summary="Get an app as one of OpenAI's models",
        dependencies=[token],
        responses=_errors(401, 404, 422, 429, 503),
    )
    async def model(model: str) -> JSONResponse:
        """One of them."""
        if model not in app_ids():
            raise NotFoundError(f"There is no model {model[:64]}; GET /v1/models lists them.")
        return JSONResponse(_model(model))


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documented errors with these HTTP statuses."""
    return {status: {"model": OpenAIErrorBody} | PHRASES.get(status, {}) for status in statuses}


def _model(app_id: str) -> dict[str, Any]:
    return {"id": app_id, "object": "model", "created": 0, "owned_by": OWNED_BY}

"""Routes of OpenAI's API: images made from a photo, and the models that can be named."""

import asyncio
import base64
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import JSONResponse

from serve_app.api.body import BodyReader
from serve_app.api.dependencies import RequestProgress, base_url, idempotency_key, retry_headers
from serve_app.api.openai.requests import PHOTO, ImageEditRequest
from serve_app.api.openai_errors import OpenAIErrorBody, error_response
from serve_app.api.openapi import IDEMPOTENCY_PARAMETER, PHRASES, body_of
from serve_app.api.settings import IngressSettings
from serve_app.errors import InvalidRequestError, NotFoundError
from serve_app.generation.service import AvatarService
from serve_app.generation.validation import Caller
from serve_app.schemas.errors import invalid_fields
from serve_app.tasks.models import Failure, TaskRecord

OWNED_BY = "face-avatar"


class Picture(BaseModel):
    """One image, as `response_format` says: its file in base64, or a signed URL."""

    b64_json: str | None = None
    url: str | None = None


class Images(BaseModel):
    """The answer to an edit; `created` is in Unix seconds."""

    created: int
    background: str
    output_format: str
    size: str
    data: list[Picture]


def add_openai_routes(
    api: FastAPI, service: AvatarService, settings: IngressSettings, bodies: BodyReader, *, token: Any, may_create: Any
) -> None:
    """Add `/v1`; `token` and `may_create` are dependencies that accept any token, and those with the right `create`."""

    def app_ids() -> list[str]:
        return [app["app_id"] for app in service.apps()]

    @api.post(
        "/v1/images/edits",
        dependencies=[may_create],
        operation_id="openai_images_edit",
        summary="Generate avatars, for clients of OpenAI's images API",
        response_model=Images,
        responses=_errors(401, 403, 404, 409, 413, 415, 422, 429, 500, 503, 504),
        openapi_extra={"parameters": [IDEMPOTENCY_PARAMETER], **body_of(ImageEditRequest, PHOTO)},
    )
    async def edit(request: Request) -> JSONResponse:
        """Avatars of the face on a photo, for clients of OpenAI's images API."""
        progress = request.state.progress = RequestProgress()
        links = base_url(request, settings)
        caller = Caller(request.state.owner, idempotency_key(request), links, request.state.token)
        async with bodies.model(ImageEditRequest, request, photo=PHOTO) as body:
            try:
                avatar_request = body.avatar_request(app_ids()[0])
            except ValidationError as error:
                raise invalid_fields(error, ImageEditRequest) from None
            progress.app_id = avatar_request.app_id
            progress.task = service.validator.task(avatar_request, caller)
            record = await service.creation.create(progress.task, avatar_request, caller)
        failure = record.outcome.failure
        if failure is None and all(avatar.withheld for avatar in record.outcome.avatars):
            failure = Failure(status=422, error="NSFW Content", error_data={"message": "Every image was withheld."})
        if failure is not None:
            request.state.outcome = failure.error
            return error_response(failure.status, failure.error, failure.error_data, retry_headers(failure))
        answer = await _answer(record, body, service, links)
        return JSONResponse(answer.model_dump(exclude_none=True))

    @api.post("/v1/images/generations", dependencies=[may_create], include_in_schema=False)
    async def generations() -> JSONResponse:
        """There is no avatar without a face."""
        message = "An avatar needs a photo: POST /v1/images/edits with an image."
        raise InvalidRequestError(message, fields=[{"field": "image", "message": "a photo of a face"}])

    @api.get("/v1/models", dependencies=[token], responses=_errors(401, 429, 503))
    async def models() -> JSONResponse:
        """The apps, as models."""
        return JSONResponse({"object": "list", "data": [_model(app_id) for app_id in app_ids()]})

    @api.get("/v1/models/{model}", dependencies=[token], responses=_errors(401, 404, 422, 429, 503))
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


async def _answer(record: TaskRecord, body: ImageEditRequest, service: AvatarService, links: str) -> Images:
    """The images of a finished task, but for those withheld. Raises: StoreError."""
    request = record.task.request
    keys = [avatar.key for avatar in record.outcome.avatars if not avatar.withheld]
    if body.response_format == "url":
        data = [Picture(url=url) for url in await service.results.urls(keys, links)]
    else:
        files = await asyncio.gather(*map(service.results.get, keys))
        data = await asyncio.to_thread(lambda: [Picture(b64_json=_base64(file)) for file in files])
    return Images(
        created=int(record.task.submitted_at),
        background="transparent" if request.remove_background and request.bg_color is None else "opaque",
        output_format=request.output_format,
        size=f"{request.width}x{request.height}",
        data=data,
    )


def _base64(file: bytes) -> str:
    return base64.b64encode(file).decode()

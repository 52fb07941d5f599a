"""The answers of OpenAI's images API, made of the record of a finished task."""

import asyncio
import base64
from typing import Literal

from pydantic import BaseModel

from serve_app.api.openai.requests import ImageEditRequest
from serve_app.generation.service import AvatarService
from serve_app.schemas.requests import EffectiveRequest
from serve_app.tasks.models import Failure, TaskRecord

TOKEN_PX = 16  # of each side of a patch of pixels, which diffusion transformers call a token


class InputTokens(BaseModel):
    """Photos and prompt are not counted."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(BaseModel):
    """Clients read tokens: an image has one for each patch of TOKEN_PX x TOKEN_PX pixels."""

    input_tokens: int = 0
    input_tokens_details: InputTokens = InputTokens()
    output_tokens: int
    total_tokens: int


class Picture(BaseModel):
    """One image, as `response_format` says: its file in base64, or a signed URL."""

    b64_json: str | None = None
    url: str | None = None


class Look(BaseModel):
    """How the images look, by the request with all defaults filled in."""

    background: Literal["opaque", "transparent"]
    output_format: str
    size: str

    @classmethod
    def of(cls, request: EffectiveRequest) -> "Look":
        """That of a task's images."""
        return cls(
            background="transparent" if request.remove_background and request.bg_color is None else "opaque",
            output_format=request.output_format,
            size=f"{request.width}x{request.height}",
        )


class Images(Look):
    """The answer to an edit; `created` is in Unix seconds."""

    created: int
    data: list[Picture]
    usage: Usage


async def images_of(record: TaskRecord, body: ImageEditRequest, service: AvatarService, links: str) -> Images:
    """The images of a finished task, but for those withheld. Raises: StoreError."""
    keys = [avatar.key for avatar in record.outcome.avatars if not avatar.withheld]
    if body.response_format == "url":
        data = [Picture(url=url) for url in await service.results.urls(keys, links)]
    else:
        files = await asyncio.gather(*map(service.results.get, keys))
        data = await asyncio.to_thread(lambda: [Picture(b64_json=base64_of(file)) for file in files])
    return Images(
        created=int(record.task.submitted_at),
        data=data,
        usage=usage_of(record.task.request, len(data)),
        **Look.of(record.task.request).model_dump(),
    )


def usage_of(request: EffectiveRequest, images: int) -> Usage:
    """The tokens of so many images of a request."""
    tokens = images * -(-request.width // TOKEN_PX) * -(-request.height // TOKEN_PX)
    return Usage(output_tokens=tokens, total_tokens=tokens)


def failure_of(record: TaskRecord) -> Failure | None:
    """Why a finished task has no images to show; None where it has."""
    failure, avatars = record.outcome.failure, record.outcome.avatars
    if failure is not None:
        return failure
    if not avatars:
        return Failure(status=409, error="Conflict", error_data={"message": "The task was cancelled or deleted."})
    if all(avatar.withheld for avatar in avatars):
        return Failure(status=422, error="NSFW Content", error_data={"message": "Every image was withheld."})
    return None


def base64_of(file: bytes) -> str:
    """As clients get it in JSON."""
    return base64.b64encode(file).decode()

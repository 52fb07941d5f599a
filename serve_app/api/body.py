"""Reads request bodies within limits, as JSON or a form, and validates them against a model."""

import asyncio
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from deployments.errors import DeadlineError
from serve_app.api.dependencies import RequestProgress
from serve_app.api.form import read_form
from serve_app.errors import InvalidRequestError, MediaTypeError, OverloadedError, TooLargeError
from serve_app.schemas.errors import invalid_fields

JSON, FORM = "application/json", "multipart/form-data"
BODY_TIMEOUT_S = 30
MAX_STRUCTURE = 20_000  # brackets, braces and commas; prompts have at most 2,000 characters
MAX_OPEN_BODIES = 128  # read at once; far below the replica's max_ongoing_requests

M = TypeVar("M", bound=BaseModel)


class BodyReader:
    """Reads bodies with limits on size, time and number, so that stalled clients cannot block the replica."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._open = 0

    async def read(self, request: Request) -> bytes:
        """Raises: TooLargeError once the announced or received size is too large; DeadlineError; OverloadedError."""
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

    async def model(self, model: type[M], request: Request, progress: RequestProgress | None = None) -> M:
        """The validated body; forms are accepted only for models with a photo. Records the app id in `progress`.

        Raises: MediaTypeError; InvalidRequestError; what `read` raises.
        """
        content_type = request.headers.get("content-type", "")
        kind = content_type.partition(";")[0].strip().lower()
        accepted = [JSON, FORM] if "file_url" in model.model_fields else [JSON]
        if kind not in accepted:
            raise MediaTypeError(f"The content type is {kind or 'missing'}.", accepted=" or ".join(accepted))
        body = await self.read(request)
        data = await read_form(body, content_type, model) if kind == FORM else _read_json(body)
        if progress is not None and isinstance(data, dict) and isinstance(data.get("app_id"), str):
            progress.app_id = data["app_id"][:64]
        try:
            return model.model_validate(data)
        except ValidationError as error:
            raise invalid_fields(error, model) from None

    async def _read(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_bytes:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"The body is larger than {self._max_bytes} bytes.", max_bytes=self._max_bytes)


def _read_json(body: bytes) -> Any:
    """Raises: InvalidRequestError."""
    # Counting takes milliseconds; parsing 16 MB of nested lists takes seconds, and nothing else runs meanwhile.
    if sum(map(body.count, (b"[", b"{", b","))) > MAX_STRUCTURE:
        problem = {"field": "body", "message": "more brackets, braces and commas than any request has"}
        raise InvalidRequestError("The body is not valid.", fields=[problem])
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        problem = {"field": "body", "message": f"not valid JSON: {error}"}
        raise InvalidRequestError("The body is not valid JSON.", fields=[problem]) from None

"""Reads request bodies within limits, as JSON or a form, and validates them against a model."""

import asyncio
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from deployments.errors import DeadlineError
from serve_app.api.body_budget import BodyBudget, BodyCharge
from serve_app.api.body_buffer import BodyBuffer
from serve_app.api.dependencies import RequestProgress
from serve_app.api.form import PHOTO, FormPhoto, parse_form
from serve_app.api.loop_lag import LoopLag
from serve_app.errors import InvalidRequestError, MediaTypeError, TooLargeError
from serve_app.photos.source import photos_of
from serve_app.schemas.errors import invalid_fields

JSON, FORM = "application/json", "multipart/form-data"
COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"})  # RFC 9110, 8.4.1
BODY_TIMEOUT_S = 30
MAX_STRUCTURE = 20_000  # brackets, braces and commas; prompts have at most 2,000 characters
MAX_INLINE_BYTES = 256 * 1024  # parsed on the event loop, in 3 ms at most; larger bodies in a thread

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class BodyReader:
    """Reads bodies with limits on size, time, number and memory, so that no client can block the replica."""

    def __init__(self, max_bytes: int, budget: BodyBudget, lag: LoopLag) -> None:
        self._max_bytes = max_bytes
        self._budget = budget
        self._lag = lag
        # One large body at a time, since it takes twice its size meanwhile. The lock, not the thread, has the queue:
        # a client that leaves takes its body out of it.
        self._threads = ThreadPoolExecutor(1, "bodies")
        self._parsing = asyncio.Lock()

    @asynccontextmanager
    async def model(
        self,
        model: type[M],
        request: Request,
        progress: RequestProgress | None = None,
        *,
        photo: FormPhoto = PHOTO,
    ) -> AsyncIterator[M]:
        """The validated body; uploaded photos are held while the block runs, and by whoever retains it.

        Forms are accepted only for models with a photo, and such requests for work only while the event loop is not
        late. Records the app id in `progress`.

        Raises: MediaTypeError; InvalidRequestError; ImageUrlError; what `read` raises.
        """
        has_photo = photo.field in model.model_fields
        content_type = request.headers.get("content-type", "")
        kind = content_type.partition(";")[0].strip().lower()
        accepted = [JSON, FORM] if has_photo else [JSON]
        if kind not in accepted:
            raise MediaTypeError(f"The content type is {kind or 'missing'}.", accepted=" or ".join(accepted))
        named = request.headers.get("content-encoding", "").lower().replace(",", " ").split()
        if compressed := COMPRESSIONS.intersection(named):
            message = f"The body is compressed ({', '.join(sorted(compressed))}): send it as it is."
            raise MediaTypeError(message, accepted="identity")
        if has_photo:
            self._lag.check()
        with ExitStack() as charged:
            charge = self._budget.open(request.state.owner)
            charged.callback(charge.close)
            buffer = BodyBuffer(self._max_bytes)
            charged.callback(buffer.clear)  # else the traceback of an error keeps it
            await self.read(request, buffer, charge)
            form = partial(parse_form, content_type=content_type, model=model, photo=photo)
            parse = form if kind == FORM else parse_json
            parsed = await self._off_the_loop(buffer.size, partial(_validated, buffer, parse, model, progress))
            if has_photo:
                charged.pop_all()  # from here on the photos hold what was charged
                sources = photos_of(parsed)
                charge.keep(sum(source.held_bytes for source in sources))
                for source in sources:
                    source.on_drop(partial(charge.give_back, source.held_bytes))
                    charged.enter_context(source.held())
            else:
                charge.close()
            yield parsed

    @asynccontextmanager
    async def whole(self, request: Request) -> AsyncIterator[bytes]:
        """A JSON body for another reader, charged while the block runs. Raises: what `read` and `parse_json` raise."""
        buffer, charge = BodyBuffer(self._max_bytes), self._budget.open(request.state.owner)
        try:
            await self.read(request, buffer, charge)
            body = buffer.take()
            await self._off_the_loop(len(body), partial(parse_json, body))
            yield body
        finally:
            buffer.clear()
            charge.close()

    async def read(self, request: Request, buffer: BodyBuffer, charge: BodyCharge) -> None:
        """Read the body into `buffer`; bytes are charged as they arrive.

        Raises: TooLargeError once the announced or received size is too large; DeadlineError; RateLimitError;
        OverloadedError; InvalidRequestError where the client left.
        """
        announced = request.headers.get("content-length", "")
        if announced.isascii() and announced.isdigit():
            if int(announced) > self._max_bytes:
                raise self._too_large()
            charge.announce(int(announced))
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                await self._read(request, buffer, charge)
        except TimeoutError:
            raise DeadlineError(f"The body did not arrive within {BODY_TIMEOUT_S} s.") from None
        except ClientDisconnect:
            raise InvalidRequestError("The client left before its request was complete.", fields=[]) from None
        finally:
            charge.arrived()

    async def _read(self, request: Request, buffer: BodyBuffer, charge: BodyCharge) -> None:
        async for chunk in request.stream():
            if buffer.size + len(chunk) > self._max_bytes:
                raise self._too_large()
            charge.add(len(chunk))
            buffer.append(chunk)

    async def _off_the_loop(self, size: int, validated: "partial[T]") -> T:
        """Small bodies are parsed at once, since a thread would take longer."""
        if size <= MAX_INLINE_BYTES:
            return validated()
        async with self._parsing:
            return await asyncio.get_running_loop().run_in_executor(self._threads, validated)

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"The body is larger than {self._max_bytes} bytes.", max_bytes=self._max_bytes)


def _validated(
    buffer: BodyBuffer, parse: Callable[[bytes], Any], model: type[M], progress: RequestProgress | None
) -> M:
    """Raises: InvalidRequestError; ImageUrlError."""
    data = parse(buffer.take())
    if progress is not None and isinstance(data, dict) and isinstance(data.get("app_id"), str):
        progress.app_id = data["app_id"][:64]
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid_fields(error, model) from None


def parse_json(body: bytes) -> Any:
    """Raises: InvalidRequestError."""
    # Counting takes milliseconds; parsing 16 MB of nested lists takes seconds.
    if sum(map(body.count, (b"[", b"{", b","))) > MAX_STRUCTURE:
        problem = {"field": "body", "message": "more brackets, braces and commas than any request has"}
        raise InvalidRequestError("The body is not valid.", fields=[problem])
    try:
        return from_json(body.removeprefix(BOM_UTF8), allow_inf_nan=False)
    except ValueError as error:
        problem = {"field": "body", "message": f"not valid JSON: {error}"}
        raise InvalidRequestError("The body is not valid JSON.", fields=[problem]) from None

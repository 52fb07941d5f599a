"""Reads request bodies within limits, as JSON or a form, and validates them against a model."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from deployments.errors import DeadlineError
from serve_app.api.body_budget import BodyBudget, BodyCharge
from serve_app.api.body_buffer import BodyBuffer
from serve_app.api.chunk import JSON_LINES, form_lines, json_lines
from serve_app.api.dependencies import RequestProgress
from serve_app.api.form import PHOTO, FormPhoto, parse_form
from serve_app.api.json_body import parse_json
from serve_app.api.loop_lag import LoopLag
from serve_app.batches.models import NewRequest
from serve_app.batches.requests import parsed_chunk
from serve_app.errors import InvalidRequestError, MediaTypeError, TooLargeError
from serve_app.photos.source import PhotoSource, photos_of
from serve_app.schemas.errors import invalid_fields

JSON, FORM = "application/json", "multipart/form-data"
COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"})  # RFC 9110, 8.4.1
BODY_TIMEOUT_S = 30
MAX_INLINE_BYTES = 256 * 1024  # parsed on the event loop, in 3 ms at most; larger bodies in a thread
CHUNK_INLINE_BYTES = 4 * 1024  # the same of a chunk, each line of which is validated as a whole request is

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
        kind = _accepted_kind(request, [JSON, FORM] if has_photo else [JSON])
        if has_photo:
            self._lag.check()
        form = partial(parse_form, content_type=request.headers["content-type"], model=model, photo=photo)
        read = partial(_validated, parse=form if kind == FORM else parse_json, model=model, progress=progress)
        async with self._held(request, read, photos_of if has_photo else None) as parsed:
            yield parsed

    @asynccontextmanager
    async def chunk(self, request: Request, defaults: dict[str, Any]) -> AsyncIterator[list[NewRequest]]:
        """Requests of a batch with these defaults: lines of JSON, or a form. Uploaded photos are held as in `model`.

        Raises: MediaTypeError; InvalidRequestError, by line; what `read` raises.
        """
        kind = _accepted_kind(request, [*JSON_LINES, FORM])
        self._lag.check()
        lines = partial(form_lines, content_type=request.headers["content-type"]) if kind == FORM else json_lines

        def parsed(body: bytes) -> list[NewRequest]:
            return parsed_chunk(lines(body), defaults)

        def photos(requests: list[NewRequest]) -> Sequence[PhotoSource]:
            return [photo for new in requests for photo in new.request.photos]

        async with self._held(request, parsed, photos, CHUNK_INLINE_BYTES) as requests:
            yield requests

    @asynccontextmanager
    async def _held(
        self,
        request: Request,
        parse: Callable[[bytes], T],
        photos: Callable[[T], Sequence[PhotoSource]] | None,
        max_inline_bytes: int = MAX_INLINE_BYTES,
    ) -> AsyncIterator[T]:
        """The parsed body, with its photos held while the block runs. Raises: what `read` and `parse` raise."""
        with ExitStack() as charged:
            charge = self._budget.open(request.state.owner)
            charged.callback(charge.close)
            buffer = BodyBuffer(self._max_bytes)
            charged.callback(buffer.clear)  # else the traceback of an error keeps it
            await self.read(request, buffer, charge)
            parsed = await self._off_the_loop(buffer.size, partial(_taken, buffer, parse), max_inline_bytes)
            if photos is not None:
                charged.pop_all()  # from here on the photos hold what was charged
                sources = photos(parsed)
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

    async def _off_the_loop(self, size: int, validated: "partial[T]", max_inline_bytes: int = MAX_INLINE_BYTES) -> T:
        """Small bodies are parsed at once, since a thread would take longer."""
        if size <= max_inline_bytes:
            return validated()
        async with self._parsing:
            return await asyncio.get_running_loop().run_in_executor(self._threads, validated)

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"The body is larger than {self._max_bytes} bytes.", max_bytes=self._max_bytes)


def _accepted_kind(request: Request, accepted: Sequence[str]) -> str:
    """The content type of a request. Raises: MediaTypeError where it is none of these, or compressed."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in accepted:
        raise MediaTypeError(f"The content type is {kind or 'missing'}.", accepted=" or ".join(accepted))
    named = request.headers.get("content-encoding", "").lower().replace(",", " ").split()
    if compressed := COMPRESSIONS.intersection(named):
        message = f"The body is compressed ({', '.join(sorted(compressed))}): send it as it is."
        raise MediaTypeError(message, accepted="identity")
    return kind


def _taken(buffer: BodyBuffer, parse: Callable[[bytes], T]) -> T:
    """No name holds the body, which a traceback would keep."""
    return parse(buffer.take())


def _validated(body: bytes, *, parse: Callable[[bytes], Any], model: type[M], progress: RequestProgress | None) -> M:
    """Raises: InvalidRequestError; ImageUrlError."""
    data = parse(body)
    if progress is not None and isinstance(data, dict) and isinstance(data.get("app_id"), str):
        progress.app_id = data["app_id"][:64]
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid_fields(error, model) from None

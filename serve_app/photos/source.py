"""The photo of a request: an http(s) URL, a data URL, or the bytes of a form's file."""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from serve_app.errors import ImageUrlError, OverloadedError, naming_photo
from serve_app.photos.file_kind import kind_of
from serve_app.photos.urls import (
    MAX_URL_CHARS,
    check_size,
    decode_data_url,
    describe_url,
    is_base64,
    is_data_url,
    named_type,
    plain_data_url,
)

MAX_PHOTOS = 4  # of one person, in one request
CHUNK_BYTES = 192 * 1024  # a multiple of 3, so that base64 of chunks is base64 of the whole


class PhotoSource:
    """Where a photo comes from. A field of a pydantic model: a string in JSON, shown as its description.

    A photo that was uploaded with the request is megabytes: it is bytes from the start, a data URL is decoded at once,
    and it is held until it was decoded (`drop`), or until nobody holds it any more (`retain`, `release`). Its bytes
    never show in logs and dumps.
    """

    def __init__(self, content: str | bytes) -> None:
        """A URL, or the bytes of a picture. For threads if it is long.

        Raises: ImageUrlError where a text is too long to be a URL.
        """
        if isinstance(content, str):
            content = content.strip()
            if is_base64(content):
                content = f"data:;base64,{content}"
            if len(content) > MAX_URL_CHARS:
                _check_long_url(content)
        self.is_upload = isinstance(content, bytes) or is_data_url(content)
        self.description = _describe(content)
        self._content: str | bytes | None = content
        # With these and its bytes a data URL is the same again: base64 can end in several ways that mean the same.
        self._url_head, self._url_end = "", ""
        if isinstance(content, bytes):
            self._url_head = f"data:image/{kind_of(content)};base64,"
        elif self.is_upload and "%" not in content:
            self._decode(content)
        self._holders = 0
        self._on_drop: Callable[[], None] | None = None

    def _decode(self, url: str) -> None:
        """Replace a data URL by its bytes, unless it is damaged, which `read` reports."""
        with suppress(ImageUrlError):
            try:
                data = decode_data_url(url, len(url))
            except ImageUrlError:
                url = plain_data_url(url)
                data = decode_data_url(url, len(url))
            self._content = data
            self._url_head, self._url_end = url[: url.find(",") + 1], url[-4:]
            media_type = named_type(url) or f"image/{kind_of(data)}"
            self.description = f"data:{media_type} ({len(data)} bytes)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PhotoSource) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self.description)

    def __repr__(self) -> str:
        return f"PhotoSource({self.description!r})"

    @property
    def url(self) -> str:
        """The http(s) URL, or whatever text is in its place; for a photo that is no upload."""
        if not isinstance(self._content, str):
            raise TypeError("an uploaded photo has no URL")
        return self._content

    @property
    def is_decoded(self) -> bool:
        """Whether `read` need not decode base64: a form's file, or a data URL that was decoded at once."""
        return isinstance(self._content, bytes)

    @property
    def held_bytes(self) -> int:
        """What an upload holds in memory, bytes or characters of base64; 0 for a URL, and after `drop`."""
        return len(self._content or "") if self.is_upload else 0

    def read(self, max_bytes: int) -> bytes:
        """The bytes of an uploaded photo. Raises its error for a damaged data URL, after a while if that is long.

        Raises: ImageUrlError; OverloadedError where the photo was dropped.
        """
        content = self._content
        if content is None:
            raise OverloadedError("The photo of this request is no longer held: send the request again.")
        if isinstance(content, bytes):
            check_size(len(content), max_bytes)
            return content
        return decode_data_url(content, max_bytes)

    def url_parts(self) -> Iterator[str]:
        """The URL in parts: of the bytes of a form, the data URL that stands for them in JSON."""
        content = "" if self._content is None else self._content
        if isinstance(content, str):
            for at in range(0, len(content), CHUNK_BYTES):
                yield content[at : at + CHUNK_BYTES]
            return
        yield self._url_head
        for at in range(0, len(content), CHUNK_BYTES):
            base64_text = base64.b64encode(content[at : at + CHUNK_BYTES]).decode()
            is_last = at + CHUNK_BYTES >= len(content)
            yield base64_text[:-4] + self._url_end if is_last and self._url_end else base64_text

    def on_drop(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the photo is dropped."""
        self._on_drop = callback

    @contextmanager
    def held(self) -> Iterator[None]:
        """Retain the photo while the block runs."""
        self.retain()
        try:
            yield
        finally:
            self.release()

    def retain(self) -> None:
        """Keep the photo until the matching `release`."""
        self._holders += 1

    def release(self) -> None:
        """Undo one `retain`; the last one drops the photo."""
        self._holders -= 1
        if self._holders == 0:
            self.drop()

    def drop(self) -> None:
        """Forget the bytes of an upload; a URL stays, since it may be fetched again."""
        if self.is_upload:
            self._content = None
        callback, self._on_drop = self._on_drop, None
        if callback is not None:
            callback()

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any, text: core_schema.ValidatorFunctionWrapHandler) -> PhotoSource:
            return value if isinstance(value, PhotoSource) else cls(text(value))

        return core_schema.no_info_wrap_validator_function(
            validate,
            core_schema.str_schema(min_length=1),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda photo: photo.description, return_schema=core_schema.str_schema()
            ),
        )


def _sources(values: Any) -> Any:
    """Turns texts into photos one by one, so that an error says which of them it is about. Raises: ImageUrlError."""
    if not isinstance(values, list) or len(values) > MAX_PHOTOS:
        return values
    sources = list(values)
    for photo, value in enumerate(values):
        if isinstance(value, str) and value:
            with naming_photo(photo, len(values)):
                sources[photo] = PhotoSource(value)
    return sources


# A list in JSON, which a strict model would not take for a tuple.
PhotoSources = Annotated[
    tuple[PhotoSource, ...], Field(min_length=1, max_length=MAX_PHOTOS, strict=False), BeforeValidator(_sources)
]
"""The type of a field with several photos of one person."""


def photos_of(body: BaseModel) -> tuple[PhotoSource, ...]:
    """The photos of a validated body, in their order."""
    values = [value for _, value in body]
    several = [photo for value in values if isinstance(value, tuple) for photo in value]
    return tuple(photo for photo in (*values, *several) if isinstance(photo, PhotoSource))


def _check_long_url(text: str) -> None:
    """Raises: ImageUrlError. Python holds a text with one emoji in four bytes a character."""
    if not is_data_url(text):
        raise ImageUrlError(f"a URL has at most {MAX_URL_CHARS} characters", reason="url")
    if not text.isascii():
        raise ImageUrlError("the data URL holds invalid base64", reason="url")


def _describe(content: str | bytes) -> str:
    if isinstance(content, str):
        return describe_url(content)
    return f"data:image/{kind_of(content)} ({len(content)} bytes)"

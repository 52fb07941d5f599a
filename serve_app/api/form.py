"""Multipart forms: the photo as a file, the other fields as text."""

import asyncio
import base64
import re
from collections.abc import AsyncGenerator
from typing import Any

from pydantic import BaseModel
from pydantic_core import from_json
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from serve_app.errors import InvalidRequestError
from serve_app.photos.decode import kind_of
from serve_app.schemas.errors import ALIAS_OF, field_schemas
from serve_app.schemas.requests import MAX_FIELDS

FILE = "file"
CHUNK_BYTES = 256 * 1024
BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{1,70}")  # RFC 2046, section 5.1.1


async def read_form(body: bytes, content_type: str, model: type[BaseModel]) -> dict[str, Any]:
    """A form as the equivalent JSON body, with `file` as a data URL in `file_url`. Raises: InvalidRequestError."""
    parser = MultiPartParser(
        Headers({"content-type": _utf8_type(content_type)}),
        _chunks(body),
        max_files=1,
        max_fields=MAX_FIELDS,
        max_part_size=len(body),  # a photo in a data URL may be as long as the body
    )
    parser.spool_max_size = len(body) + 1  # keeps photos of people off the disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise _refused("body", error.message) from None
    data: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name in data:
            raise _refused(name, "given more than once")
        data[name] = value
    return await _with_data_url(data, model)


def _utf8_type(content_type: str) -> str:
    """The content type with its boundary and nothing else: a `charset` would let the client choose a codec of Python.

    Some of these take quadratic time, others are no text encodings. Raises: InvalidRequestError.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not BOUNDARY.fullmatch(boundary):
        raise _refused("body", "the content type names no boundary, or not a valid one")
    return f'multipart/form-data; boundary="{boundary.decode()}"'


async def _with_data_url(data: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    file = data.pop(FILE, None)
    if any(isinstance(value, UploadFile) for value in data.values()):
        raise _refused(FILE, f"the photo is the field {FILE}; no other one is a file")
    schemas = field_schemas(model)
    typed = {name: _typed(value, schemas.get(ALIAS_OF.get(name, name), {})) for name, value in data.items() if value}
    if file is None:
        return typed
    if not isinstance(file, UploadFile):
        raise _refused(FILE, "not a file: a form's part with a file name is expected")
    if typed.keys() & {"file_url", "image"}:
        raise _refused(FILE, "comes beside a file_url: send one of them")
    return {**typed, "file_url": await asyncio.to_thread(_data_url, await file.read())}


def form_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The form schema for a JSON body."""
    file = {"type": "string", "format": "binary", "description": "The reference photo, in place of a `file_url`."}
    required = [name for name in schema.get("required", []) if name != "file_url"]
    return {**schema, "properties": {FILE: file, **schema["properties"]}, "required": required}


def _typed(text: str, schema: dict[str, Any]) -> Any:
    """Parses numbers and booleans as JSON; other text is kept, for the model to reject with its own message."""
    if "string" in {schema.get("type"), *(kind.get("type") for kind in schema.get("anyOf", []))}:
        return text
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _data_url(photo: bytes) -> str:
    """A data URL with the media type of the first bytes, not the declared one; the decoder checks the rest."""
    return f"data:image/{kind_of(photo)};base64,{base64.b64encode(photo).decode()}"


async def _chunks(body: bytes) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(body), CHUNK_BYTES):
        yield body[start : start + CHUNK_BYTES]
        await asyncio.sleep(0)  # lets other tasks run between chunks


def _refused(name: str, message: str) -> InvalidRequestError:
    return InvalidRequestError("The form is not valid.", fields=[{"field": name[:64], "message": message}])

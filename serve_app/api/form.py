"""Multipart forms: the photo as a file, and the other fields of a request as text."""

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
    """The fields of a form as if they had come as JSON; the `file` is the `file_url`. Raises: InvalidRequestError."""
    parser = MultiPartParser(
        Headers({"content-type": _utf8_type(content_type)}),
        _chunks(body),
        max_files=1,
        max_fields=MAX_FIELDS,
        max_part_size=len(body),  # as long as the body may be, so may a photo in a data URL be
    )
    parser.spool_max_size = len(body) + 1  # a photo of a person is not written to the disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise _refused("body", error.message) from None
    data: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name in data:
            raise _refused(name, "given more than once")
        data[name] = value
    return await _with_photo(data, model)


def _utf8_type(content_type: str) -> str:
    """The content type with its boundary and nothing else: a `charset` would let the client choose a codec of Python.

    Some of these take quadratic time, others are no text encodings. Raises: InvalidRequestError.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not BOUNDARY.fullmatch(boundary):
        raise _refused("body", "the content type names no boundary, or not a valid one")
    return f'multipart/form-data; boundary="{boundary.decode()}"'


async def _with_photo(data: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    file = data.pop(FILE, None)
    if any(isinstance(value, UploadFile) for value in data.values()):
        raise _refused(FILE, f"the photo is the field {FILE}; no other one is a file")
    typed = {name: _typed(value, _schema(model, name)) for name, value in data.items() if value}
    if file is None:
        return typed
    if not isinstance(file, UploadFile):
        raise _refused(FILE, "not a file: a form's part with a file name is expected")
    if typed.keys() & {"file_url", "image"}:
        raise _refused(FILE, "comes beside a file_url: send one of them")
    return {**typed, "file_url": await asyncio.to_thread(_data_url, await file.read())}


def form_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a body as that of the form that stands for it."""
    file = {"type": "string", "format": "binary", "description": "The reference photo, in place of a `file_url`."}
    required = [name for name in schema.get("required", []) if name != "file_url"]
    return {**schema, "properties": {FILE: file, **schema["properties"]}, "required": required}


def _schema(model: type[BaseModel], name: str) -> dict[str, Any]:
    schema: dict[str, Any] = field_schemas(model).get(ALIAS_OF.get(name, name), {})
    return schema


def _typed(text: str, schema: dict[str, Any]) -> Any:
    """A number or a boolean as JSON writes it; what is none stays text, which the model refuses with its rule."""
    if "string" in {schema.get("type"), *(kind.get("type") for kind in schema.get("anyOf", []))}:
        return text
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _data_url(photo: bytes) -> str:
    """By its first bytes, not by what its sender calls it; the decoder looks at the rest."""
    return f"data:image/{kind_of(photo)};base64,{base64.b64encode(photo).decode()}"


async def _chunks(body: bytes) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(body), CHUNK_BYTES):
        yield body[start : start + CHUNK_BYTES]
        await asyncio.sleep(0)  # between them others get their turn


def _refused(name: str, message: str) -> InvalidRequestError:
    return InvalidRequestError("The form is not valid.", fields=[{"field": name[:64], "message": message}])

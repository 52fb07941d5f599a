"""Multipart forms: the photo as a file, the other fields as text."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import from_json
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serve_app.errors import InvalidRequestError
from serve_app.photos.source import MAX_PHOTOS, PhotoSource
from serve_app.schemas.errors import ALIAS_OF, field_schemas
from serve_app.schemas.requests import ALIASES, MAX_FIELDS

BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{1,70}")  # RFC 2046, section 5.1.1
CHUNK_BYTES = 256 * 1024
BOOLEANS = {  # as forms of browsers, YAML and programs have them
    **dict.fromkeys(("true", "1", "on", "yes", "y"), True),
    **dict.fromkeys(("false", "0", "off", "no", "n"), False),
    "null": None,
}
MAX_NUMBER_CHARS = 64
MAX_PADDING = 256  # blanks after a boundary, which the parser skips one by one


class FormPhoto(NamedTuple):
    """The part of a form that is the photo, by its names, and the field of the model that it stands for.

    Of a model with the field `several` a form may have more than one photo.
    """

    field: str
    parts: tuple[str, ...]
    several: str

    def most(self, model: type[BaseModel]) -> int:
        """How many photos of a model a form may have."""
        return MAX_PHOTOS if self.several in model.model_fields else 1


PHOTO = FormPhoto("file_url", ("file",), "file_urls")


def parse_form(body: bytes, content_type: str, model: type[BaseModel], photo: FormPhoto = PHOTO) -> dict[str, Any]:
    """A form as the equivalent JSON body, with the files as the photos. Raises: InvalidRequestError."""
    parts = _Parts(body, _known_names(model), photo, photo.most(model))
    parts.read(content_type)
    return _with_photos(parts, model, photo)


def form_schema(model: type[BaseModel], photo: FormPhoto = PHOTO) -> dict[str, Any]:
    """The form schema for the JSON body of a model."""
    schema = model.model_json_schema()
    instead = "" if photo.field in photo.parts else f", in place of a `{photo.field}`"
    file: dict[str, Any] = {"type": "string", "format": "binary", "description": f"The reference photo{instead}."}
    if (most := photo.most(model)) > 1:
        text = f"The reference photo{instead}, or up to {most} of one person, each a part of this name."
        file = {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": most, "description": text}
    others = {name: field for name, field in schema["properties"].items() if name not in photo.parts}
    required = [name for name in schema.get("required", []) if name != photo.field]
    schema.pop("anyOf", None)  # says which fields have the photo in JSON
    return {**schema, "properties": {photo.parts[0]: file, **others}, "required": required}


class FormReader(ABC):
    """Reads the parts of a form; a subclass says in `wants` which of them it takes, and gets these in `take`.

    The parser gets the body in chunks, in each of which it searches in C: other threads run in between.
    """

    def __init__(self, body: bytes) -> None:
        self._whole = body
        self._body = memoryview(body)
        self._begin_part()

    def read(self, content_type: str, most_parts: int = MAX_FIELDS) -> None:
        """Raises: InvalidRequestError."""
        boundary = _boundary(content_type)
        _check_structure(self._whole, boundary, most_parts)
        try:
            self._parse(boundary)
        except FormParserError:
            raise refused("body", "not a valid multipart form") from None

    @abstractmethod
    def wants(self, name: str, *, is_file: bool) -> bool:
        """Whether the content of a part is to be kept. Raises: InvalidRequestError."""

    @abstractmethod
    def take(self, name: str, content: bytes, *, is_file: bool) -> None:
        """A part that is wanted, at its end."""

    def _parse(self, boundary: bytes) -> None:
        """Raises: FormParserError; InvalidRequestError."""
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_to_header_name,
                "on_header_value": self._add_to_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._check_headers,
                "on_part_data": self._add_to_content,
                "on_part_end": self._end_part,
            },
        )
        for at in range(0, len(self._body), CHUNK_BYTES):
            parser.write(bytes(self._body[at : at + CHUNK_BYTES]))

    def _begin_part(self) -> None:
        self._header_name = self._header_value = self._disposition = b""
        self._name = ""
        self._is_file = self._is_wanted = False
        self._content = BytesIO()

    def _add_to_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_to_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _check_headers(self) -> None:
        options = parse_options_header(self._disposition)[1]
        if b"name" not in options:
            raise refused("body", "a part has no name: Content-Disposition: form-data; name=... is expected")
        self._name, self._is_file = text_of(options[b"name"]), b"filename" in options
        self._is_wanted = self.wants(self._name, is_file=self._is_file)

    def _add_to_content(self, data: bytes, start: int, end: int) -> None:
        if self._is_wanted:
            self._content.write(data[start:end])

    def _end_part(self) -> None:
        if self._is_wanted:
            self.take(self._name, self._content.getvalue(), is_file=self._is_file)  # no copy


class _Parts(FormReader):
    """The texts of a form by name, of an unknown name only that it is there; and its files, which are photos.

    The field for several photos may come more than once: its value is a list.
    """

    def __init__(self, body: bytes, known_names: frozenset[str], photo: FormPhoto, most_photos: int) -> None:
        super().__init__(body)
        self.values: dict[str, str | list[str] | None] = {}
        self.files: list[bytes] = []
        self._photos = 0
        self._most_photos = most_photos
        self._known_names = known_names.union(photo.parts)
        self._photo = photo

    def wants(self, name: str, *, is_file: bool) -> bool:
        """Whether the model knows it."""
        photo, is_known = self._photo.parts[0], name in self._known_names
        if name in self._photo.parts:
            self._count_photo(is_file)
        elif is_file:
            raise refused(photo, f"the photo is the field {photo}; no other one is a file")
        elif is_known and name == self._photo.several:
            self.values.setdefault(name, [])
        elif name in self.values:
            raise refused(name, "given more than once")
        else:
            self.values[name] = None
        return is_known

    def take(self, name: str, content: bytes, *, is_file: bool) -> None:
        """Keeps it."""
        value = self.values.get(name)
        if is_file:
            self.files.append(content)
        elif isinstance(value, list):
            value += [text_of(content)] if content else []  # an empty text: not given
        else:
            self.values[name] = text_of(content)

    def _count_photo(self, is_file: bool) -> None:
        if not is_file:
            raise refused(self._photo.parts[0], "not a file: a form's part with a file name is expected")
        self._photos += 1
        if self._photos > self._most_photos:
            most = "given more than once" if self._most_photos == 1 else f"more than {self._most_photos} photos"
            raise refused(self._photo.parts[0], most)


def _known_names(model: type[BaseModel]) -> frozenset[str]:
    fields = field_schemas(model).keys()
    return frozenset({*fields, *(alias for alias, name in ALIAS_OF.items() if name in fields)})


def _boundary(content_type: str) -> bytes:
    """The boundary of a content type. Its `charset` is not looked at: the client would choose a codec of Python.

    Some of these take quadratic time, others are no text encodings. Raises: InvalidRequestError.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not BOUNDARY.fullmatch(boundary):
        raise refused("body", "the content type names no boundary, or not a valid one")
    return boundary


def _check_structure(body: bytes, boundary: bytes, most_parts: int) -> None:
    """Refuses forms that the parser, which is Python, would take seconds for. Raises: InvalidRequestError."""
    ends = list(islice(_delimiter_ends(body, b"\r\n--" + boundary), most_parts + 1))
    if len(ends) > most_parts:
        raise refused("body", "more parts than any form has")
    if any(not body[end : end + MAX_PADDING].strip(b" \t") for end in ends if end + MAX_PADDING < len(body)):
        raise refused("body", "blanks after a boundary")


def _delimiter_ends(body: bytes, delimiter: bytes) -> Iterator[int]:
    """Where delimiters end, those within a photo too; by a search in steps of milliseconds."""
    for at in range(0, len(body), CHUNK_BYTES):
        found, end = at, at + CHUNK_BYTES + len(delimiter) - 1
        while (found := body.find(delimiter, found, end)) >= 0:
            found += len(delimiter)
            yield found


def _with_photos(parts: _Parts, model: type[BaseModel], photo: FormPhoto) -> dict[str, Any]:
    """Raises: InvalidRequestError."""
    schemas = field_schemas(model)
    # None: a name that the model does not know, and refuses with its own message. An empty text: not given.
    typed = {
        name: _typed(value, schemas.get(ALIAS_OF.get(name, name), {})) if isinstance(value, str) else value
        for name, value in parts.values.items()
        if value not in ("", [])
    }
    if not parts.files:
        return typed
    if named := typed.keys() & {photo.field, photo.several, *ALIASES.get(photo.field, ())}:
        raise refused(photo.parts[0], f"comes beside a {min(named)}: send one of them")
    photos = [PhotoSource(file) for file in parts.files]
    return {**typed, photo.field: photos[0]} if len(photos) == 1 else {**typed, photo.several: photos}


def _typed(text: str, schema: dict[str, Any]) -> Any:
    """Parses numbers, booleans and null; other text is kept, for the model to reject with its own message."""
    kinds = {schema.get("type"), *(kind.get("type") for kind in schema.get("anyOf", []))}
    if "string" in kinds or len(text) > MAX_NUMBER_CHARS:  # megabytes of brackets would take seconds
        return text
    word = text.strip().lower()
    if "boolean" in kinds:
        return BOOLEANS.get(word, text)
    try:
        value = from_json(word, allow_inf_nan=False)
    except ValueError:
        return text
    return value if value is None or isinstance(value, bool | int | float) else text


def text_of(data: bytes) -> str:
    """The text of a part or its name, as UTF-8, or else as Latin-1."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def refused(name: str, message: str) -> InvalidRequestError:
    """The error for a form that is not accepted."""
    return InvalidRequestError("The form is not valid.", fields=[{"field": name[:64], "message": message}])

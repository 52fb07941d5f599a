"""Requests of a batch as they come: lines of JSON, or a form whose files are named after their requests."""

from codecs import BOM_UTF8
from collections import defaultdict
from typing import Any

from serve_app.api.form import FormReader, refused
from serve_app.api.json_body import parse_json
from serve_app.batches.requests import MAX_CHUNK, PHOTO_FIELDS, ChunkLine, LineErrors
from serve_app.errors import InvalidRequestError
from serve_app.photos.source import MAX_PHOTOS, PhotoSource

JSON_LINES = ("application/x-ndjson", "application/jsonl", "application/json-lines")
LINES = "requests"  # the part of a form that has lines of JSON
MAX_LINES = 2 * MAX_CHUNK  # empty ones too


def json_lines(body: bytes) -> list[ChunkLine]:
    """The objects of the lines that are not empty. Raises: InvalidRequestError."""
    if body.count(b"\n") > MAX_LINES:
        raise _too_many()
    errors, lines = LineErrors(), []
    for number, line in enumerate(body.removeprefix(BOM_UTF8).split(b"\n"), 1):
        if line.strip():
            try:
                lines.append(ChunkLine(number, _object(line)))
            except InvalidRequestError as error:
                errors.add(number, "", error)
    errors.check()
    return _checked(lines)


def form_lines(body: bytes, content_type: str) -> list[ChunkLine]:
    """The lines of the part `requests`, and photos for the others, by the name of their part: the `custom_id`.

    Raises: InvalidRequestError.
    """
    form = _ChunkForm(body)
    form.read(content_type, MAX_CHUNK * MAX_PHOTOS + 1)
    lines = [_with_photos(line, form.photos) for line in json_lines(form.lines)] if form.lines.strip() else []
    without_line = [ChunkLine(None, {"custom_id": name, **_fields(files)}) for name, files in form.photos.items()]
    return _checked([*lines, *without_line])


def chunk_schema() -> dict[str, Any]:
    """The schema of the form."""
    file = {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": MAX_PHOTOS}
    text = {"type": "string", "description": "Lines of JSON, as in the other kind of body."}
    return {"type": "object", "properties": {LINES: text}, "additionalProperties": file}


class _ChunkForm(FormReader):
    """Lines of JSON, and photos by the names of their parts."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self.lines = b""
        self.photos: defaultdict[str, list[bytes]] = defaultdict(list)
        self._has_lines = False

    def wants(self, name: str, *, is_file: bool) -> bool:
        """All parts."""
        if name == LINES:
            if self._has_lines:
                raise refused(LINES, "given more than once")
            self._has_lines = True
        elif not is_file:
            raise refused(name, "not a file: only photos, and the lines of JSON in `requests`, are parts")
        elif len(self.photos[name]) >= MAX_PHOTOS:
            raise refused(name, f"more than {MAX_PHOTOS} photos")
        return True

    def take(self, name: str, content: bytes, *, is_file: bool) -> None:
        """Keeps it."""
        if name == LINES:
            self.lines = content
        else:
            self.photos[name].append(content)


def _object(line: bytes) -> dict[str, Any]:
    """Raises: InvalidRequestError."""
    found = parse_json(line)
    if not isinstance(found, dict):
        raise refused("body", "not a JSON object")
    return found


def _with_photos(line: ChunkLine, photos: dict[str, list[bytes]]) -> ChunkLine:
    """The line with the files of its name, which are then taken. Raises: InvalidRequestError."""
    custom_id = line.fields.get("custom_id")
    files = photos.pop(custom_id, None) if isinstance(custom_id, str) else None
    if files is None:
        return line
    for name in PHOTO_FIELDS:
        if line.fields.get(name) is not None:
            errors = LineErrors()
            errors.add(line.line, str(custom_id), refused(name, "comes beside a file: send one of them"))
            errors.check()
    return ChunkLine(line.line, {**line.fields, **_fields(files)})


def _fields(files: list[bytes]) -> dict[str, Any]:
    sources = [PhotoSource(file) for file in files]
    return {"file_url": sources[0]} if len(sources) == 1 else {"file_urls": sources}


def _checked(lines: list[ChunkLine]) -> list[ChunkLine]:
    """Raises: InvalidRequestError where there are too many, or none."""
    if not lines:
        raise refused("body", "no requests: a line of JSON for each is expected, or in a form a photo")
    if len(lines) > MAX_CHUNK:
        raise _too_many()
    return lines


def _too_many() -> InvalidRequestError:
    return refused("body", f"more than {MAX_CHUNK} requests: send them in several chunks")

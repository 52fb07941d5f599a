"""Parts of the OpenAPI document: bodies, parameters and answers of operations, with examples."""

from typing import Any

from pydantic import BaseModel

from serve_app.api.body import FORM, JSON
from serve_app.api.chunk import JSON_LINES, chunk_schema
from serve_app.api.dependencies import MAX_IDEMPOTENCY_CHARS
from serve_app.api.examples import answer_examples, request_examples
from serve_app.api.form import PHOTO, FormPhoto, form_schema
from serve_app.batches.requests import MAX_CUSTOM_ID
from serve_app.schemas.requests import AvatarRequest
from serve_app.schemas.responses import Envelope

IDEMPOTENCY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "With the same key, token and body a request is the same task: nothing is generated twice.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_CHARS},
}
EVENT = {
    "type": "object",
    "description": "Each event; `data` is JSON.",
    "properties": {name: {"type": "string"} for name in ("event", "data", "id")},
}
EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": EVENT}}},
    204: {"description": "`Last-Event-ID` was the last event."},
}
CUSTOM_ID = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_CUSTOM_ID,
    "description": "Your name of the request, unique in its batch.",
}
AFTER_PARAMETER = {
    "name": "after",
    "in": "query",
    "description": "The `index` of the last line that you have: only the ones after it.",
    "schema": {"type": "integer", "minimum": 0, "maximum": 2**31, "default": 0},
}
BATCH_LINE = {
    "type": "object",
    "description": "Each line.",
    "properties": {
        "index": {"type": "integer", "description": "Counts the lines from 1."},
        "custom_id": {"type": "string"},
        "envelope": {"$ref": "#/components/schemas/Envelope"},
    },
}
BATCH_RESULTS: dict[int | str, dict[str, Any]] = {200: {"content": {JSON_LINES[0]: {"schema": BATCH_LINE}}}}
# What Python 3.13 words otherwise than 3.11: the document is the same on both.
PHRASES = {413: {"description": "Request Entity Too Large"}, 422: {"description": "Unprocessable Entity"}}


def envelopes(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documented answers with these HTTP statuses."""
    return {
        status: {"model": Envelope, "content": {JSON: {"examples": answer_examples(status)}}} | PHRASES.get(status, {})
        for status in statuses
    }


def body_of(model: type[BaseModel], photo: FormPhoto = PHOTO) -> dict[str, Any]:
    """The request body that `BodyReader` validates with this model."""
    schema = model.model_json_schema()
    content = {JSON: {"schema": schema, "examples": request_examples(model)}}
    if photo.field in model.model_fields:
        content[FORM] = {"schema": form_schema(model, photo)}
    return {"requestBody": {"required": True, "content": content}}


def chunk_body() -> dict[str, Any]:
    """The request body that adds requests to a batch."""
    line = {
        **AvatarRequest.model_json_schema(),
        "description": "Each line; what the batch's defaults say may be left out.",
    }
    line["properties"] = {"custom_id": CUSTOM_ID, **line["properties"]}
    line["required"] = ["custom_id"]
    del line["anyOf"]
    content = {JSON_LINES[0]: {"schema": line}, FORM: {"schema": chunk_schema()}}
    return {"requestBody": {"required": True, "content": content}}

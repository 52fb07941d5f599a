"""The HTTP status and stable name of each error; task records store both, too."""

from functools import cache
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from deployments.errors import (
    AvatarError,
    DeadlineError,
    NoFaceError,
    OtherPersonError,
    PromptTooLongError,
    UnsafeImageError,
)
from serve_app.errors import (
    ConflictError,
    ForbiddenError,
    GivenUpError,
    ImageUrlError,
    InterruptedWorkError,
    InvalidRequestError,
    MediaTypeError,
    MethodNotAllowedError,
    NotFoundError,
    OverloadedError,
    RateLimitError,
    TooLargeError,
    UnauthorizedError,
    UnknownAppError,
    UnknownBatchError,
    UnknownTaskError,
)
from serve_app.schemas.requests import ALIASES


class ErrorAnswer(NamedTuple):
    """HTTP status of an error, and its stable name: `error` of the envelope."""

    status: int
    name: str


ALIAS_OF = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
_PROSE = {"title", "description", "examples"}
INTERNAL_ERROR = ErrorAnswer(500, "Internal Error")
ANSWERS: dict[type[AvatarError], ErrorAnswer] = {
    UnauthorizedError: ErrorAnswer(401, "Unauthorized"),
    ForbiddenError: ErrorAnswer(403, "Forbidden"),
    NotFoundError: ErrorAnswer(404, "Not Found"),
    UnknownAppError: ErrorAnswer(404, "Unknown App"),
    UnknownTaskError: ErrorAnswer(404, "Unknown Task"),
    UnknownBatchError: ErrorAnswer(404, "Unknown Batch"),
    MethodNotAllowedError: ErrorAnswer(405, "Method Not Allowed"),
    ConflictError: ErrorAnswer(409, "Conflict"),
    TooLargeError: ErrorAnswer(413, "Request Too Large"),
    MediaTypeError: ErrorAnswer(415, "Unsupported Media Type"),
    InvalidRequestError: ErrorAnswer(422, "Invalid Request"),
    ImageUrlError: ErrorAnswer(422, "Image URL Error"),
    PromptTooLongError: ErrorAnswer(422, "Invalid Request"),
    NoFaceError: ErrorAnswer(422, "Face Consistent Error"),
    OtherPersonError: ErrorAnswer(422, "Face Consistent Error"),
    UnsafeImageError: ErrorAnswer(422, "NSFW Content"),
    RateLimitError: ErrorAnswer(429, "Rate Limit"),
    OverloadedError: ErrorAnswer(503, "Overloaded"),
    DeadlineError: ErrorAnswer(504, "Timeout"),
    InterruptedWorkError: INTERNAL_ERROR,
    GivenUpError: INTERNAL_ERROR,
}


def answer_to(error: AvatarError) -> ErrorAnswer:
    """The HTTP status and stable name of an error, by its nearest class."""
    return next((ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS), INTERNAL_ERROR)


def invalid_fields(error: ValidationError, model: type[BaseModel]) -> InvalidRequestError:
    """A pydantic error as one entry per field: the problem, and the JSON schema of accepted values."""
    schemas = field_schemas(model)
    fields = []
    for problem in error.errors(include_url=False, include_input=False):
        name = str(problem.get("ctx", {}).get("field") or (problem["loc"][0] if problem["loc"] else "body"))[:64]
        entry: dict[str, Any] = {"field": name, "message": problem["msg"].removeprefix("Value error, ")}
        if problem["type"] == "extra_forbidden":
            field = ALIAS_OF.get(name)
            entry["message"] = (
                f"differs from {field}, whose alias it is: send one of them" if field else "unknown field"
            )
            entry["accepted"] = sorted(schemas)
        elif name in schemas:
            entry["accepted"] = {key: rule for key, rule in schemas[name].items() if key not in _PROSE}
        fields.append(entry)
    return InvalidRequestError("The request is not valid.", fields=fields)


@cache
def field_schemas(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of each field."""
    properties: dict[str, Any] = model.model_json_schema()["properties"]
    return properties

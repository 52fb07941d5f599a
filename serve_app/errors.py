"""Which error becomes which HTTP answer: the one place that knows.

AvatarError
├── RequestError           the client's request cannot be served as it is
│   ├── UnauthorizedError, ForbiddenError, NotFoundError, MethodNotAllowedError
│   ├── TooLargeError, MediaTypeError, InvalidRequestError, ConflictError
│   ├── UnknownTaskError   there is no such task, or it is another token's
│   └── OverloadedError    it could be served later
│       └── BrokerError, StoreError, RateLimitError
├── InterruptedWorkError   it was lost on our side
├── GivenUpError           processes died under it again and again
├── UnknownAppError        (catalog)
├── ImageUrlError          (fetch, photo)
├── NoFaceError            (stages)
├── UnsafeImageError       (stages)
└── DeadlineError          (stages)
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from deployments.errors import AvatarError, DeadlineError, NoFaceError, UnsafeImageError
from serve_app.catalog import UnknownAppError
from serve_app.fetch import ImageUrlError
from serve_app.schemas import ALIASES


class RequestError(AvatarError):
    """An error of the request itself."""


class UnauthorizedError(RequestError):
    pass


class ForbiddenError(RequestError):
    pass


class NotFoundError(RequestError):
    pass


class MethodNotAllowedError(RequestError):
    pass


class TooLargeError(RequestError):
    pass


class MediaTypeError(RequestError):
    pass


class InvalidRequestError(RequestError):
    """A body that is not what the contract says; `fields` has one entry a field."""


class OverloadedError(RequestError):
    """More work than this service takes on now; `retry_after_s` says when to try again."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s


class RateLimitError(OverloadedError):
    """More than the token may ask for now; `headers` say how much that is."""

    def __init__(self, message: str, retry_after_s: int, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(message, retry_after_s)
        self.headers = headers


class BrokerError(OverloadedError):
    """The broker does not answer."""


class StoreError(OverloadedError):
    """The store does not answer."""


class InterruptedWorkError(AvatarError):
    """The process that worked on a request died with it: an internal error, which a repeat may not meet."""


class GivenUpError(AvatarError):
    """Processes died under the work again and again: it is not tried any more, and is with the dead letters."""


class UnknownTaskError(RequestError):
    """No record of the task, or not one of this token's."""


class ConflictError(RequestError):
    """An idempotency key that came with another body before."""


class ErrorAnswer(NamedTuple):
    status: int
    name: str


INTERNAL_ERROR = ErrorAnswer(500, "Internal Error")

ANSWERS: dict[type[AvatarError], ErrorAnswer] = {
    UnauthorizedError: ErrorAnswer(401, "Unauthorized"),
    ForbiddenError: ErrorAnswer(403, "Forbidden"),
    NotFoundError: ErrorAnswer(404, "Not Found"),
    UnknownAppError: ErrorAnswer(404, "Unknown App"),
    UnknownTaskError: ErrorAnswer(404, "Unknown Task"),
    MethodNotAllowedError: ErrorAnswer(405, "Method Not Allowed"),
    ConflictError: ErrorAnswer(409, "Conflict"),
    TooLargeError: ErrorAnswer(413, "Request Too Large"),
    MediaTypeError: ErrorAnswer(415, "Unsupported Media Type"),
    InvalidRequestError: ErrorAnswer(422, "Invalid Request"),
    ImageUrlError: ErrorAnswer(422, "Image URL Error"),
    NoFaceError: ErrorAnswer(422, "Face Consistent Error"),
    UnsafeImageError: ErrorAnswer(422, "NSFW Content"),
    RateLimitError: ErrorAnswer(429, "Rate Limit"),
    OverloadedError: ErrorAnswer(503, "Overloaded"),
    DeadlineError: ErrorAnswer(504, "Timeout"),
    InterruptedWorkError: INTERNAL_ERROR,
    GivenUpError: INTERNAL_ERROR,
}


def answer_to(error: AvatarError) -> ErrorAnswer:
    """The HTTP status and the stable name of an error, by its nearest class."""
    return next((ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS), INTERNAL_ERROR)


def invalid_fields(error: ValidationError, model: type[BaseModel]) -> InvalidRequestError:
    """A pydantic error as one entry a field: what was wrong, and the JSON schema of what would be accepted."""
    schemas = field_schemas(model)
    fields = []
    for problem in error.errors(include_url=False, include_input=False):
        name = str(problem.get("ctx", {}).get("field") or (problem["loc"][0] if problem["loc"] else "body"))[:64]
        entry: dict[str, Any] = {"field": name, "message": problem["msg"].removeprefix("Value error, ")}
        if problem["type"] == "extra_forbidden":
            known = ALIAS_OF.get(name)
            entry["message"] = (
                f"differs from {known}, whose alias it is: send one of them" if known else "unknown field"
            )
            entry["accepted"] = sorted(schemas)
        elif name in schemas:
            entry["accepted"] = {key: rule for key, rule in schemas[name].items() if key not in _PROSE}
        fields.append(entry)
    return InvalidRequestError("The request is not valid.", fields=fields)


ALIAS_OF = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
_PROSE = {"title", "description", "examples"}


@cache
def field_schemas(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of each field."""
    properties: dict[str, Any] = model.model_json_schema()["properties"]
    return properties

"""The HTTP status and the stable name of each error. Task records keep both, so more than HTTP needs them."""

from typing import NamedTuple

from deployments.errors import AvatarError, DeadlineError, NoFaceError, UnsafeImageError
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
    UnknownTaskError,
)


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

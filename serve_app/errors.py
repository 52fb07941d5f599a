"""The errors that clients can receive. `schemas.errors` maps them to HTTP status and name.

AvatarError
├── RequestError           the request cannot be served
│   ├── UnauthorizedError, ForbiddenError, NotFoundError, MethodNotAllowedError
│   ├── TooLargeError, MediaTypeError, InvalidRequestError, ConflictError
│   ├── UnknownTaskError   no such task, or it belongs to another token
│   ├── UnknownBatchError  the same of a batch
│   └── OverloadedError    can be retried later
│       ├── StoreError, RateLimitError, TooLateError
│       └── BrokerError
│           └── BrokerFullError   Redis takes no more writes
├── InterruptedWorkError   the worker process died
├── GivenUpError           worker processes died repeatedly
├── UnknownAppError        no such app in the catalogue
├── ImageUrlError          the photo cannot be fetched, decoded or used
├── NoFaceError            (deployments)
├── OtherPersonError       (deployments)
├── UnsafeImageError       (deployments)
└── DeadlineError          (deployments)
    └── NotBegunError      (deployments)
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Literal

from deployments.errors import AvatarError

MAX_RETRY_AFTER_S = 600


class RequestError(AvatarError):
    """The request itself is at fault, or cannot be served now."""


class UnauthorizedError(RequestError):
    """The token is missing, unknown or expired: 401."""


class ForbiddenError(RequestError):
    """Beyond the token's rights or limits, an app that its licence forbids, or a signed URL that is not valid: 403."""


class NotFoundError(RequestError):
    """No route has this path, or there is no such file: 404."""


class MethodNotAllowedError(RequestError):
    """The path has no route for this method: 405; `accepted` names those that it has."""


class TooLargeError(RequestError):
    """The body has more than `max_bytes`: 413."""


class MediaTypeError(RequestError):
    """The body is of a type that its route does not read: 415; `accepted` names JSON and, for photos, forms."""


class InvalidRequestError(RequestError):
    """The request does not match its schema; `fields` has one entry for each invalid field."""


class OverloadedError(RequestError):
    """The service is overloaded; `retry_after_s` says when to retry."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s


class RateLimitError(OverloadedError):
    """The token exceeded its rate limit; `headers` state the limit."""

    def __init__(self, message: str, retry_after_s: int, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(message, retry_after_s)
        self.headers = headers


class TooLateError(OverloadedError):
    """A task that is queued now would miss its deadline."""


class BrokerError(OverloadedError):
    """Redis does not answer."""


class BrokerFullError(BrokerError):
    """The memory of Redis is full: it answers reads and deletes, and refuses other writes."""


class StoreError(OverloadedError):
    """The object store does not answer."""


class InterruptedWorkError(AvatarError):
    """The process that worked on a request died: an internal error, which a retry may avoid."""


class GivenUpError(AvatarError):
    """Worker processes died on the task repeatedly; it is a dead letter and not retried."""


class UnknownTaskError(RequestError):
    """No record of the task, or it belongs to another token."""


class UnknownBatchError(RequestError):
    """No record of the batch, or it belongs to another token."""


class ConflictError(RequestError):
    """The idempotency key was used with a different body before, or the batch takes no more requests."""


Reason = Literal[
    "url",
    "scheme",
    "userinfo",
    "port",
    "address",
    "redirects",
    "unreachable",
    "timeout",
    "status",
    "encoding",
    "too_large",
    "not_an_image",
    "broken",
    "too_small",
    "too_many_pixels",
    "too_costly",
]


class ImageUrlError(AvatarError):
    """The client's photo could not be fetched or used; `reason` is a stable code for programs.

    Never reveals what an address resolved to or what it answered.
    """

    # `reason` needs a default: unpickling passes only the message, then restores `data`.
    def __init__(self, message: str, *, reason: Reason = "url", **data: Any) -> None:
        super().__init__(message, reason=reason, **data)


@contextmanager
def naming_photo(photo: int, photos: int) -> Iterator[None]:
    """Errors of the block say in `photo` which of several photos they are about, from 0."""
    try:
        yield
    except AvatarError as error:
        if photos > 1:
            error.data["photo"] = photo
        raise


class UnknownAppError(AvatarError):
    """The request names an app that is not in the catalogue."""


def too_costly() -> ImageUrlError:
    """The error for a picture whose decoder ran out of time or memory, or died."""
    return ImageUrlError("the picture takes more time or memory to decode than a photo does", reason="too_costly")

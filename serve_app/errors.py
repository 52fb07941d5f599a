"""The errors that a client is told of. `error_answers` says which HTTP answer each becomes.

AvatarError
├── RequestError           the client's request cannot be served as it is
│   ├── UnauthorizedError, ForbiddenError, NotFoundError, MethodNotAllowedError
│   ├── TooLargeError, MediaTypeError, InvalidRequestError, ConflictError
│   ├── UnknownTaskError   there is no such task, or it is another token's
│   └── OverloadedError    it could be served later
│       └── BrokerError, StoreError, RateLimitError
├── InterruptedWorkError   it was lost on our side
├── GivenUpError           processes died under it again and again
├── UnknownAppError        the catalogue has no such app
├── ImageUrlError          the photo cannot be fetched, decoded or used
├── NoFaceError            (deployments)
├── UnsafeImageError       (deployments)
└── DeadlineError          (deployments)
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from deployments.errors import AvatarError

MAX_RETRY_AFTER_S = 600


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
    """The client's photo could not be had or used; `reason` is a short stable code for programs.

    Says nothing of what an address resolved to or what stood behind it.
    """

    # `reason` has a default because unpickling passes the message alone, then restores `data`.
    def __init__(self, message: str, *, reason: Reason = "url", **data: Any) -> None:
        super().__init__(message, reason=reason, **data)


class UnknownAppError(AvatarError):
    """The client named an app that the catalogue does not have."""


def too_costly() -> ImageUrlError:
    return ImageUrlError("the picture takes more time or memory to decode than a photo does", reason="too_costly")

"""The errors that stages raise on purpose. Anything else that leaves a stage is a bug.

AvatarError
├── NoFaceError          the photo shows no face that can be used
├── UnsafeImageError     the safety checker withholds what was drawn
└── DeadlineError        the work could not be done in the time that its client gave
"""

from typing import Any


class AvatarError(Exception):
    """An error that the client is told of; `data` says what was wrong and what would be accepted."""

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.data = {"message": message, **data}


class NoFaceError(AvatarError):
    """No face was found, or none large enough."""


class UnsafeImageError(AvatarError):
    """A generated image, or all images of a request, are withheld."""


class DeadlineError(AvatarError):
    """The deadline of a request passed before its work was done."""

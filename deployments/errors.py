"""The errors that stages raise deliberately. Any other exception from a stage is a bug.

AvatarError
├── NoFaceError          the photo has no usable face
├── OtherPersonError     one of several photos shows somebody else
├── PromptTooLongError   the model cannot read all of the prompt
├── UnsafeImageError     the safety checker withholds the image
└── DeadlineError        the deadline passed
    └── NotBegunError    the start deadline passed before the first step: nothing was drawn

DeviceLostError          a stage's accelerator works no more; no fault of the request, which another replica can serve
"""

from typing import Any


class AvatarError(Exception):
    """An error that is reported to the client; `data` says what was wrong and what would be accepted."""

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.data = {"message": message, **data}


class NoFaceError(AvatarError):
    """No face was found, or none large enough."""


class OtherPersonError(AvatarError):
    """One of several photos of one person plainly shows somebody else; `photo` says which, from 0."""


class PromptTooLongError(AvatarError):
    """The model cannot read all of a prompt, and none is cut."""


class UnsafeImageError(AvatarError):
    """A generated image, or every image of a request, is withheld."""


class DeadlineError(AvatarError):
    """The deadline of a request passed before it was completed."""


class NotBegunError(DeadlineError):
    """The start deadline of a request passed before the first denoising step of any of its images."""

    @classmethod
    def within(cls, seconds: float) -> "NotBegunError":
        """The error of a request that had so long to begin."""
        return cls(f"Not begun within {seconds:.6g} s.")


class DeviceLostError(Exception):
    """The accelerator of a replica fails every operation, or hangs. It never reaches a caller: the replica ends."""

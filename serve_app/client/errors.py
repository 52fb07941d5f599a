"""The errors of the client.

ClientError
├── ClientSettingsError      the URL, the token or the environment's proxy cannot be used
├── ConnectionFailedError    no complete answer: refused, dropped or too slow
├── UnexpectedAnswerError    the answer breaks the contract: no envelope, no image, too large
├── ServiceError             the service refused the request, or its task failed
├── PhotoFileError           the photo cannot be read, or is too large to send
├── WithheldError            the safety stage withheld the image
└── NotFinishedError         the task did not finish within the time to wait
"""

from typing import Any

import httpx


class ClientError(Exception):
    """Base of all errors of the client; the message says what failed."""


class ClientSettingsError(ClientError):
    """The URL, the token or the environment's proxy cannot be used; another attempt would fail, too."""


class ConnectionFailedError(ClientError):
    """`reached` is false where no connection could be made."""

    def __init__(self, place: str, cause: httpx.RequestError) -> None:
        self.reached = not isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout)
        what = "gave no whole answer" if self.reached else "cannot be reached"
        super().__init__(f"{place} {what}: {str(cause) or type(cause).__name__}")


class UnexpectedAnswerError(ClientError):
    """The answer breaks the contract: no envelope, no image, or too large. Something else may be at the URL."""


class ServiceError(ClientError):
    """An error of the service: `error` is its stable name, `error_data` says what was wrong and what is accepted.

    `status_code` is that of the answer: 200 where reading a task showed that it had failed.
    """

    def __init__(self, status_code: int, error: str, error_data: dict[str, Any], task_id: str = "") -> None:
        self.status_code = status_code
        self.error = error
        self.error_data = error_data
        self.task_id = task_id
        super().__init__(_readable(error, error_data))


class PhotoFileError(ClientError):
    """The photo's file cannot be read, or is larger than MAX_PHOTO_BYTES; nothing was sent."""


class WithheldError(ClientError):
    """The safety stage withheld the image: it has no URL, so there is nothing to download."""


class NotFinishedError(ClientError):
    """The task did not finish within `timeout_s`; it goes on, and may be waited for again."""


def _readable(error: str, data: dict[str, Any]) -> str:
    """One line, and one more for each invalid field."""
    text = f"{error}: {data['message']}" if data.get("message") else error
    accepted = data.get("accepted")
    if isinstance(accepted, list):
        text += f" Accepted: {', '.join(map(str, accepted))}."
    if isinstance(data.get("photo"), int):
        text += f" (photo {data['photo'] + 1})"  # people count from 1
    if "request_id" in data:
        text += f" (request {data['request_id']})"
    fields = data.get("fields")
    problems = [entry for entry in fields if isinstance(entry, dict)] if isinstance(fields, list) else []
    return "\n".join([text, *(f"  {entry.get('field')}: {entry.get('message')}" for entry in problems)])

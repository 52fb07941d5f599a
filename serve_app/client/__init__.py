"""The HTTP client of the service: typed requests and results, and retries that never generate a picture twice.

    with FaceAvatarClient("http://127.0.0.1:8000", token) as client:
        task = client.avatars.create(Path("me.jpg"), batch=2, gender="female")
        pictures = [client.avatars.download(image) for image in task.images]

`AsyncFaceAvatarClient` has the same methods for an event loop. Every method raises ClientError; `errors` shows its
subclasses.
"""

from serve_app.client.asynchronous import AsyncFaceAvatarClient
from serve_app.client.blocking import FaceAvatarClient
from serve_app.client.errors import (
    ClientError,
    ClientSettingsError,
    ConnectionFailedError,
    NotFinishedError,
    PhotoFileError,
    ServiceError,
    UnexpectedAnswerError,
    WithheldError,
)
from serve_app.client.requests import GRACE_S, POLL_RETRIES, WAIT_S
from serve_app.client.values import (
    AppInfo,
    AvatarImage,
    AvatarParameters,
    Batch,
    BatchItem,
    BatchResult,
    Face,
    Faces,
    Photo,
    Photos,
    PhotoWarning,
    Task,
    TaskProgress,
    Verdict,
    WebhookDelivery,
    data_url,
    image_format,
)

__all__ = [
    "GRACE_S",
    "POLL_RETRIES",
    "WAIT_S",
    "AppInfo",
    "AsyncFaceAvatarClient",
    "AvatarImage",
    "AvatarParameters",
    "Batch",
    "BatchItem",
    "BatchResult",
    "ClientError",
    "ClientSettingsError",
    "ConnectionFailedError",
    "Face",
    "FaceAvatarClient",
    "Faces",
    "NotFinishedError",
    "Photo",
    "PhotoFileError",
    "PhotoWarning",
    "Photos",
    "ServiceError",
    "Task",
    "TaskProgress",
    "UnexpectedAnswerError",
    "Verdict",
    "WebhookDelivery",
    "WithheldError",
    "data_url",
    "image_format",
]

"""What `face-avatar generate` does, and `demo` after its start: have avatars made, write them, tell of them."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.text import Text

from serve_app.auth import TOKEN_FILE
from serve_app.client import GRACE_S, AvatarImage, AvatarParameters, FaceAvatarClient, Photo, Task, image_format
from serve_app.connection import ClientError, ClientSettingsError
from serve_app.settings import Settings

DEFAULT_URL = "http://127.0.0.1:8000"
MAX_STEM_CHARS = 100
QUEUED_TIMEOUT_S = 3600.0  # what the service gives a queued task that names no deadline


class OutputError(ClientError):
    """An avatar could not be written."""


class InterruptedWaitError(ClientError):
    """Somebody stopped waiting for a queued task, which goes on; the message says how to fetch its avatars."""


@dataclass(frozen=True, slots=True)
class SavedAvatar:
    """`path` is None where the safety stage withheld the image."""

    path: Path | None
    image: AvatarImage


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made, or the id of a task whose avatars are to be fetched; exactly one of the two."""

    photo: Photo | None
    task_id: str | None
    parameters: AvatarParameters
    queued: bool
    output: Path
    url: str


def fulfil(client: FaceAvatarClient, order: Order, out: Console, err: Console, *, as_json: bool) -> None:
    """Have an order made, write its avatars and tell of them; as JSON: the envelope, and all else on stderr.

    Raises: ClientError.
    """
    told = err if as_json else out
    task = _make(client, order, told, err)
    if as_json:
        print(json.dumps(task.envelope, indent=2))
    task.require_success()
    with err.status("fetching the avatars"):
        saved = save_avatars(client, task, order.output, file_stem(order.photo, task))
    for line in summary(task, saved):
        told.print(line, markup=False)


def _make(client: FaceAvatarClient, order: Order, told: Console, err: Console) -> Task:
    """The finished task of an order, whatever its end."""
    # Nothing is printed while a status turns: on a terminal it would take stdout along to stderr.
    if order.photo is None:
        return _wait(client, order, order.task_id or "", err)
    if not order.queued:
        with err.status("drawing"):
            return client.create(order.photo, **order.parameters)
    with err.status("queueing"):
        task_id = client.submit(order.photo, **order.parameters).task_id
    told.print(f"task {task_id}", markup=False)
    return _wait(client, order, task_id, err)


def _wait(client: FaceAvatarClient, order: Order, task_id: str, err: Console) -> Task:
    timeout_s = (order.parameters.get("deadline_s") or QUEUED_TIMEOUT_S) + GRACE_S
    try:
        with err.status("asking for the task") as status:
            return client.wait(task_id, timeout_s=timeout_s, report=lambda task: status.update(Text(state(task))))
    except KeyboardInterrupt:
        again = ["face-avatar", "generate", "--task", task_id, "-o", str(order.output)]
        again += [] if order.url == DEFAULT_URL else ["--url", order.url]
        raise InterruptedWaitError(f"The task goes on. Fetch its avatars later: {shlex.join(again)}") from None


def save_avatars(client: FaceAvatarClient, task: Task, folder: Path, stem: str) -> tuple[SavedAvatar, ...]:
    """Write the images of a task as `<stem>-<seed>.<format>`, over files of the same name.

    Raises: ClientError.
    """
    return tuple(_save(client, image, folder, stem) for image in task.images)


def _save(client: FaceAvatarClient, image: AvatarImage, folder: Path, stem: str) -> SavedAvatar:
    if image.url is None:
        return SavedAvatar(None, image)
    data = client.download(image.url)
    path = folder / f"{stem}-{image.seed}.{image_format(data)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}") from error
    return SavedAvatar(path, image)


def file_stem(photo: Photo | None, task: Task) -> str:
    """What the files are called after: the photo; of a task whose photo had no name, its id."""
    if isinstance(photo, Path):
        return photo.stem
    source = photo or str(task.envelope["input"].get("file_url", ""))
    path = urlsplit(source).path if is_url(source) else ""
    return (Path(path).stem or Path(task.task_id).stem)[:MAX_STEM_CHARS]


def is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def state(task: Task) -> str:
    """A task in one line, for whoever waits: `STARTED, step 12 of 30, 1 of 4 images, about 8 s left`."""
    progress = task.progress
    parts = [task.status]
    if progress is not None:
        if progress.queue_position:
            parts.append(f"{progress.queue_position} before it")
        if progress.step is not None and progress.steps:
            parts.append(f"step {progress.step} of {progress.steps}")
        if progress.images_done is not None and progress.images:
            parts.append(f"{progress.images_done} of {progress.images} images")
        if progress.eta_s is not None:
            parts.append(f"about {progress.eta_s:.0f} s left")
    return ", ".join(parts)


def summary(task: Task, saved: tuple[SavedAvatar, ...]) -> Iterator[str]:
    """A line for each image, and one for the times."""
    for avatar in saved:
        image = avatar.image
        shown = "no face found" if image.face_similarity is None else f"{image.face_similarity:.2f}"
        where = avatar.path if avatar.path is not None else "withheld by the safety stage"
        yield f"{where}  seed {image.seed}  similarity {shown}"
    times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in task.stages.items())
    yield f"{times}; together {task.runtime_s:.2f} s" if times else f"together {task.runtime_s:.2f} s"


def read_token(token: str | None, file: Path | None) -> str:
    """The token itself, or that of a file; without either, of the data directory. Raises: ClientSettingsError."""
    if token:
        return token
    try:
        path = file if file is not None else Settings().data_dir / TOKEN_FILE
        return path.expanduser().read_text().strip()
    except OSError as error:
        raise ClientSettingsError(f"no token: {path}: {error.strerror}; give --token or --token-file") from error
    except ValueError as error:
        raise ClientSettingsError(f"no token: {error}") from error

"""What `face-avatar generate` does, and `demo` after its start: have avatars made, write them, tell of them."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from serve_app.backends.data_dir_secrets import TOKEN_FILE
from serve_app.client import (
    GRACE_S,
    WAIT_S,
    AvatarImage,
    AvatarParameters,
    ClientError,
    ClientSettingsError,
    FaceAvatarClient,
    Photo,
    Task,
    image_format,
)
from serve_app.settings import Settings
from serve_app.task_view import TaskView

DEFAULT_URL = "http://127.0.0.1:8000"
MAX_STEM_CHARS = 100


class OutputError(ClientError):
    """An avatar could not be written."""


class InterruptedWaitError(ClientError):
    """Somebody stopped waiting for a task, which goes on; the message says how to fetch its avatars."""


@dataclass(frozen=True, slots=True)
class SavedAvatar:
    """`path` is None where the safety stage withheld the image. With a receipt it lies beside the image, as JSON."""

    path: Path | None
    image: AvatarImage


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made, or the id of a task whose avatars are to be fetched; exactly one of the two.

    Without `waits` a task is queued and named, and that is all.
    """

    photo: Photo | None
    task_id: str | None
    parameters: AvatarParameters
    waits: bool
    receipts: bool
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
    if not order.waits and not task.finished:
        told.print(f"Fetch its avatars later: {_again(order, task.task_id)}", markup=False)
        return
    task.require_success()
    with err.status("fetching the avatars"):
        saved = save_avatars(client, task, order.output, file_stem(order.photo, task), receipts=order.receipts)
    for line in summary(task, saved):
        told.print(line, markup=False)


def _make(client: FaceAvatarClient, order: Order, told: Console, err: Console) -> Task:
    """The finished task of an order, whatever its end; where nobody waits, as it stands.

    All tasks are queued: one that is has an id from the start, so that it can be watched, and fetched by another run.
    """
    if order.photo is None:
        return _wait(client, order, order.task_id or "", err)
    # Nothing is printed while a status turns: on a terminal it would take stdout along to stderr.
    with err.status("sending the photo"):
        task = client.avatars.submit(order.photo, **order.parameters)
    told.print(f"task {task.task_id}", markup=False)
    return _wait(client, order, task.task_id, err) if order.waits else task


def _wait(client: FaceAvatarClient, order: Order, task_id: str, err: Console) -> Task:
    timeout_s = (order.parameters.get("deadline_s") or WAIT_S) + GRACE_S
    try:
        with TaskView(err) as view:
            return client.avatars.wait(task_id, timeout_s=timeout_s, progress=view.show)
    except KeyboardInterrupt:
        message = f"The task goes on. Fetch its avatars later: {_again(order, task_id)}"
        raise InterruptedWaitError(message) from None


def _again(order: Order, task_id: str) -> str:
    """The command that fetches the avatars of an order."""
    command = ["face-avatar", "generate", "--task", task_id, "-o", str(order.output)]
    command += ["--receipts"] if order.receipts else []
    return shlex.join(command if order.url == DEFAULT_URL else [*command, "--url", order.url])


def save_avatars(
    client: FaceAvatarClient, task: Task, folder: Path, stem: str, *, receipts: bool = False
) -> tuple[SavedAvatar, ...]:
    """Write the images of a task as `<stem>-<seed>.<format>`, over files of the same name; receipts as `.json`.

    Raises: ClientError.
    """
    return tuple(_save(client, image, folder, stem, receipts=receipts) for image in task.images)


def _save(client: FaceAvatarClient, image: AvatarImage, folder: Path, stem: str, *, receipts: bool) -> SavedAvatar:
    if image.url is None:
        return SavedAvatar(None, image)
    data = client.avatars.download(image)
    path = folder / f"{stem}-{image.seed}.{image_format(data)}"
    write_file(path, data)
    if receipts:
        write_file(path.with_suffix(".json"), json.dumps(image.receipt, indent=2).encode())
    return SavedAvatar(path, image)


def write_file(path: Path, data: bytes) -> None:
    """Raises: OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}") from error


def file_stem(photo: Photo | None, task: Task) -> str:
    """What the files are called after: the photo; of a task whose photo had no name, its id."""
    if isinstance(photo, Path):
        return photo.stem
    source = photo or str(task.envelope["input"].get("file_url", ""))
    path = urlsplit(source).path if is_url(source) else ""
    return (Path(path).stem or Path(task.task_id).stem)[:MAX_STEM_CHARS]


def is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def summary(task: Task, saved: tuple[SavedAvatar, ...]) -> Iterator[str]:
    """A line for each image, and one for the times."""
    for avatar in saved:
        image = avatar.image
        shown = "no face found" if image.face_similarity is None else f"{image.face_similarity:.2f}"
        where = avatar.path if avatar.path is not None else "withheld by the safety stage"
        tries = f"  best of {len(image.attempts)}" if len(image.attempts) > 1 else ""
        yield f"{where}  seed {image.seed}  similarity {shown}{tries}"
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

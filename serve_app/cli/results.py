"""Writes the avatars of a finished task to files, and summarises them for the terminal."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from serve_app.client import AvatarImage, ClientError, FaceAvatarClient, Photo, Task, image_format
from serve_app.client.addresses import is_url

MAX_STEM_CHARS = 100


class OutputError(ClientError):
    """An avatar could not be written."""


@dataclass(frozen=True, slots=True)
class SavedAvatar:
    """`path` is None where the safety stage withheld the image. A receipt is a JSON file beside the image."""

    path: Path | None
    image: AvatarImage


def save_avatars(
    client: FaceAvatarClient, task: Task, folder: Path, stem: str, *, receipts: bool = False
) -> tuple[SavedAvatar, ...]:
    """Write the images of a task as `<stem>-<seed>.<format>`, overwriting existing files; receipts as `.json`.

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
    """The stem of file names: that of the photo, or the task id if the photo has no name."""
    if isinstance(photo, Path):
        return photo.stem
    source = photo or str(task.envelope["input"].get("file_url", ""))
    path = urlsplit(source).path if is_url(source) else ""
    return (Path(path).stem or Path(task.task_id).stem)[:MAX_STEM_CHARS]


def summary(task: Task, saved: tuple[SavedAvatar, ...]) -> Iterator[str]:
    """A line for each image and each warning about the photo, and one with the run times."""
    for avatar in saved:
        image = avatar.image
        similarity = "no face found" if image.face_similarity is None else f"{image.face_similarity:.2f}"
        where = avatar.path if avatar.path is not None else "withheld by the safety stage"
        tries = f"  best of {len(image.attempts)}" if len(image.attempts) > 1 else ""
        yield f"{where}  seed {image.seed}  similarity {similarity}{tries}"
    yield from (f"warning: {text}" for text in task.warning_texts())
    times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in task.stages.items())
    yield f"{times}; together {task.runtime_s:.2f} s" if times else f"together {task.runtime_s:.2f} s"

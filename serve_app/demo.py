"""The client's side of `face-avatar demo`: one photo, a service that was just started, and its avatars."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.backends.data_dir_secrets import TOKEN_FILE
from serve_app.client import FaceAvatarClient, Task
from serve_app.generate import SavedAvatar, save_avatars

if TYPE_CHECKING:  # it brings Ray, which a client does without
    from serve_app.local import RunningService


def draw_avatars(
    service: "RunningService",
    photo: Path,
    folder: Path,
    *,
    batch: int,
    seed: int | None,
    report: Callable[[str], None],
) -> tuple[Task, tuple[SavedAvatar, ...]]:
    """Have avatars made of a photo and write them to a folder.

    Raises: ClientError.
    """
    token = (service.data_dir / TOKEN_FILE).read_text().strip()
    with FaceAvatarClient(service.url, token) as client, _ticking(report, f"drawing {batch} avatars"):
        task = client.avatars.create(photo, batch=batch, seed=seed).require_success()
        return task, save_avatars(client, task, folder, photo.stem)


@contextlib.contextmanager
def _ticking(report: Callable[[str], None], what: str) -> Iterator[None]:
    """Keeps reporting what is being done, so that whoever waits sees time pass."""
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.5):
            report(what)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()

"""`face-avatar demo`: starts a temporary service and generates avatars of one photo."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.console import console
from serve_app.cli.options import AVATARS, OutputOption
from serve_app.cli.results import SavedAvatar, save_avatars, summary
from serve_app.cli.signals import end_on_signals
from serve_app.client import FaceAvatarClient, Task
from serve_app.launcher import RunningService, ServiceOptions, free_port, run_service
from serve_app.photos.sample import sample_photo
from serve_app.schemas.requests import MAX_SEED


def generate_avatars(
    service: RunningService,
    photo: Path,
    folder: Path,
    *,
    batch: int,
    seed: int | None,
    report: Callable[[str], None],
) -> tuple[Task, tuple[SavedAvatar, ...]]:
    """Generate avatars of a photo and write them to a folder.

    Raises: ClientError.
    """
    with FaceAvatarClient(service.url, service.token) as client, _repeating(report, f"drawing {batch} avatars"):
        task = client.avatars.create(photo, batch=batch, seed=seed).require_success()
        return task, save_avatars(client, task, folder, photo.stem)


@contextlib.contextmanager
def _repeating(report: Callable[[str], None], text: str) -> Iterator[None]:
    """Repeats a report every half second, so that the elapsed time shown with it advances."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(0.5):
            report(text)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def demo(
    photo: Annotated[
        Path | None,
        typer.Argument(help="A photo of a face; a sample without it.", exists=True, dir_okay=False, readable=True),
    ] = None,
    output: OutputOption = AVATARS,
    batch: Annotated[int, typer.Option(min=1, max=8, help="How many avatars.")] = 4,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same avatars.")] = None,
) -> None:
    """Start the service, send it a photo, write the avatars, and end it again."""
    started = time.monotonic()
    picture = photo if photo is not None else sample_photo()
    count = f"{batch} {'avatar' if batch == 1 else 'avatars'}"
    end_on_signals()
    with tempfile.TemporaryDirectory(prefix="face-avatar-") as data_dir, console.status("") as status:
        options = ServiceOptions(port=free_port(), data_dir=Path(data_dir))

        def report(text: str) -> None:
            status.update(f"{time.monotonic() - started:4.0f} s  {text}")

        with run_service(options, report) as service:
            console.print(f"{time.monotonic() - started:5.1f} s  service ready at {service.url}")
            task, saved = generate_avatars(service, picture, output, batch=batch, seed=seed, report=report)
            console.print(f"{time.monotonic() - started:5.1f} s  {count} of {picture.name}", markup=False)
    for line in summary(task, saved):
        console.print(f"         {line}", markup=False)

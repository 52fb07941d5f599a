"""`face-avatar generate DIR`: a batch of all photos in a folder, which goes on where it was left.

What is done is in a file of the output folder. After ctrl-C, or a crash, the batch itself goes on; the same command
finds it again, sends what it lacks, and fetches what was drawn meanwhile. Photos whose avatars are there are not drawn
again.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from serve_app.cli.results import OutputError, save_avatars, write_file
from serve_app.client import (
    AvatarParameters,
    Batch,
    BatchItem,
    BatchResult,
    ClientError,
    FaceAvatarClient,
    PhotoFileError,
    ServiceError,
)

STATE = ".face-avatar-batch.json"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic", ".heif"})
MAX_BATCH = 1000  # photos; a larger folder takes several batches, one after the other
MAX_CHUNK = 50  # photos
MAX_CHUNK_BYTES = 8 * 1024 * 1024  # of files, unless one alone is larger
POLL_S = 1.0


class FolderError(ClientError):
    """Some photos have no avatars; the message says which and why."""


@dataclass(frozen=True, slots=True)
class FolderRequest:
    """The photos of a folder, and what to make of each."""

    folder: Path
    output: Path
    parameters: AvatarParameters
    receipts: bool
    waits: bool


class FolderState(BaseModel):
    """What is done, in STATE of the output folder. `digest` is that of what was asked for."""

    model_config = ConfigDict(extra="forbid")

    digest: str
    batch_id: str | None = None  # of the batch that is going on
    after: int = 0  # the index of the last result of it that was fetched
    sent: list[str] = []  # the photos that it has
    done: dict[str, list[str]] = {}  # photos, and the files of their avatars

    @classmethod
    def read(cls, output: Path, digest: str) -> "FolderState":
        """That of an output folder; a new one where there is none. Raises: OutputError."""
        path = output / STATE
        try:
            state = cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls(digest=digest)
        except (OSError, ValidationError) as error:
            raise OutputError(f"{path} cannot be read: {error}") from error
        if state.digest != digest:
            raise OutputError(f"{output} has avatars that were made with other options: name another folder with -o")
        return state

    def write(self, output: Path) -> None:
        """Raises: OutputError."""
        part = output / f"{STATE}.part"
        write_file(part, self.model_dump_json().encode())
        part.replace(output / STATE)

    def begin(self, batch: Batch) -> None:
        """Go on with a new batch."""
        self.batch_id, self.after, self.sent = batch.batch_id, 0, []

    def has(self, output: Path, photo: str) -> bool:
        """Whether the avatars of a photo are there."""
        return photo in self.done and all((output / name).exists() for name in self.done[photo])


@dataclass
class FolderRun:
    """One run of the command."""

    client: FaceAvatarClient
    request: FolderRequest
    state: FolderState
    photos: dict[str, Path]  # by name, which is their `custom_id`
    shown: "FolderView"
    made: set[str] = field(default_factory=set)  # photos whose avatars are there
    failed: dict[str, str] = field(default_factory=dict)  # photos, and why

    def __post_init__(self) -> None:
        self.made.update(photo for photo in self.photos if self.state.has(self.request.output, photo))

    def run(self) -> None:
        """Until all photos have avatars, or failed; or all are sent, where nobody waits. Raises: ClientError."""
        try:
            while (batch := self._batch()) is not None:
                if batch.state == "open":
                    self._send(batch)
                    batch = self.client.batches.close(batch)
                self._save()
                if not self.request.waits:
                    return
                self._fetch(batch)
        finally:
            self._save()

    def _save(self) -> None:
        self.state.write(self.request.output)
        self._show("drawing")

    def _show(self, what: str) -> None:
        self.shown.show(what, len(self.made) + len(self.failed), len(self.failed))

    def _left(self) -> list[str]:
        return [photo for photo in self.photos if photo not in self.failed and photo not in self.made]

    def _batch(self) -> Batch | None:
        """The batch that goes on, or else a new one; None where nothing is left."""
        if self.state.batch_id is not None:
            try:
                return self.client.batches.get(self.state.batch_id)
            except ServiceError as error:
                if error.status_code != 404:
                    raise
                self.state.batch_id = None  # it has expired, or belongs to another service
        if not self._left():
            return None
        batch = self.client.batches.create(self.request.parameters)
        self.state.begin(batch)
        self.state.write(self.request.output)
        return batch

    def _send(self, batch: Batch) -> None:
        """Add the photos that it lacks. Raises: ClientError."""
        sent = set(self.state.sent)
        lacking = [photo for photo in self._left() if photo not in sent][: MAX_BATCH - len(sent)]
        for chunk in self._chunks(lacking):
            self._show("sending")
            self._add(batch, chunk)
            self.state.write(self.request.output)

    def _chunks(self, photos: Sequence[str]) -> Iterator[list[str]]:
        chunk: list[str] = []
        size = 0
        for photo in photos:
            path = self.photos[photo]
            own = path.stat().st_size if path.exists() else 0
            if chunk and (len(chunk) == MAX_CHUNK or size + own > MAX_CHUNK_BYTES):
                yield chunk
                chunk, size = [], 0
            chunk.append(photo)
            size += own
        if chunk:
            yield chunk

    def _add(self, batch: Batch, photos: Sequence[str]) -> None:
        """Add a chunk, without the photos that the service refuses. Raises: ClientError."""
        left = [photo for photo in photos if self._is_readable(photo)]
        while left:
            try:
                self.client.batches.add(batch, [BatchItem(photo, self.photos[photo]) for photo in left])
            except ServiceError as error:
                refused = _refused_photos(error)
                if not refused.keys() & set(left):
                    raise
                self.failed.update(refused)
                left = [photo for photo in left if photo not in refused]
            else:
                self.state.sent += left
                return

    def _is_readable(self, photo: str) -> bool:
        try:
            BatchItem(photo, self.photos[photo]).fields()
        except PhotoFileError as error:
            self.failed[photo] = str(error)
            return False
        return True

    def _fetch(self, batch: Batch) -> None:
        """Write avatars as they come, until the batch is finished. Raises: ClientError."""
        while True:
            # All of them before the first file: the service need not wait for downloads amid its answer.
            for result in [*self.client.batches.results(batch, after=self.state.after)]:
                self._take(result)
                self._show("drawing")
            self._save()
            if batch.finished and self.state.after >= batch.counts.total:
                break
            time.sleep(POLL_S)
            batch = self.client.batches.get(batch)
        self.state.batch_id = None

    def _take(self, result: BatchResult) -> None:
        """Write the avatars of a photo, or note why there are none. Raises: ClientError."""
        photo, task = result.custom_id, result.task
        if photo in self.photos:
            if task.images:
                stem = self._stem(photo)
                saved = save_avatars(self.client, task, self.request.output, stem, receipts=self.request.receipts)
                self.made.add(photo)
                self.state.done[photo] = [avatar.path.name for avatar in saved if avatar.path is not None]
            else:
                self.failed[photo] = str(task.error_data.get("message") or task.error or task.status)
        self.state.after = result.index

    def _stem(self, photo: str) -> str:
        """The name without its suffix, unless another photo has the same."""
        stems = Counter(path.stem for path in self.photos.values())
        path = self.photos[photo]
        return path.stem if stems[path.stem] == 1 else path.name


class FolderView:
    """One bar on a terminal, otherwise a line for each change."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._printed = ""
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        # Without the redirects: they would send stdout to this console, too.
        self._progress = Progress(
            *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._bar = self._progress.add_task("sending", total=total)

    def __enter__(self) -> "FolderView":
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def show(self, what: str, ended: int, failed: int) -> None:
        """How many photos have ended, and how many of these failed."""
        text = f"{what}, {failed} failed" if failed else what
        self._progress.update(self._bar, description=text, completed=ended)
        line = f"{text}: {ended} of {self._total} photos"
        if not self._console.is_terminal and line != self._printed:
            self._printed = line
            self._console.print(line, markup=False)


def run_folder(client: FaceAvatarClient, request: FolderRequest, out: Console, err: Console) -> None:
    """Make avatars of all photos of a folder. Raises: ClientError; FolderError where some have none."""
    photos = photos_in(request.folder)
    state = FolderState.read(request.output, _digest(request.parameters))
    with FolderView(err, len(photos)) as view:
        run = FolderRun(client, request, state, photos, view)
        run.run()
    if request.waits or state.batch_id is None:
        out.print(f"avatars of {len(run.made)} of {len(photos)} photos are in {request.output}", markup=False)
    else:
        out.print(f"batch {state.batch_id}: the same command without --no-wait fetches its avatars", markup=False)
    if run.failed:
        told = "\n".join(f"  {photo}: {reason}" for photo, reason in sorted(run.failed.items()))
        raise FolderError(f"{len(run.failed)} photos have no avatars; the same command tries them again\n{told}")


def photos_in(folder: Path) -> dict[str, Path]:
    """The photos of a folder by their names. Raises: PhotoFileError where there are none."""
    found = {path.name: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and path.is_file()}
    if not found:
        raise PhotoFileError(f"{folder}: no photos, which end in {', '.join(sorted(SUFFIXES))}")
    return found


def _refused_photos(error: ServiceError) -> dict[str, str]:
    """The photos that a chunk was refused for, and why; none where the fault is another one."""
    fields = error.error_data.get("fields")
    problems = [each for each in fields if isinstance(each, dict)] if isinstance(fields, list) else []
    of_photos = [each for each in problems if each.get("field") in ("file_url", "file_urls")]
    return {str(each.get("custom_id")): str(each.get("message")) for each in of_photos}


def _digest(parameters: AvatarParameters) -> str:
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()

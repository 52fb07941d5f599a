"""The client's side of `face-avatar demo`: one photo through `POST /getImageToImage`."""

import base64
import contextlib
import json
import mimetypes
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import skimage

from serve_app.auth import TOKEN_FILE
from serve_app.local import RunningService

TIMEOUT_S = 180
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the service is on this machine


class DemoError(Exception):
    """What the service said against the photo, or why it could not be sent."""


@dataclass(frozen=True, slots=True)
class MadeAvatars:
    avatars: list[tuple[Path, float | None]]  # file, similarity of its face to the photo's
    stages: dict[str, float]  # seconds
    runtime_s: float


def sample_photo() -> Path:
    """The astronaut Eileen Collins: a NASA photo in the public domain that scikit-image ships."""
    return Path(skimage.__file__).parent / "data" / "astronaut.png"


def save_avatars(
    service: RunningService,
    photo: Path,
    folder: Path,
    *,
    batch: int,
    seed: int | None,
    report: Callable[[str], None],
) -> MadeAvatars:
    """Have avatars made of a photo and write them to a folder.

    Raises: DemoError.
    """
    body: dict[str, Any] = {"app_id": "face-avatar", "file_url": data_url(photo), "batch": batch}
    if seed is not None:
        body["seed"] = seed
    token = (service.data_dir / TOKEN_FILE).read_text().strip()
    with _ticking(report, f"drawing {batch} avatars"):
        envelope = json.loads(_request(f"{service.url}/getImageToImage", body, token))
    output = envelope["output"]
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{photo.stem}-{seed}.png" for seed in output["seeds"]]
    for path, url in zip(paths, output["result"], strict=True):
        path.write_bytes(_request(url))
    required = envelope["time_required"]
    similarity = output["face_similarity"]
    return MadeAvatars(list(zip(paths, similarity, strict=True)), required["stages"], required["runtime"])


def data_url(photo: Path) -> str:
    """Raises: DemoError where the file cannot be read."""
    try:
        data = photo.read_bytes()
    except OSError as error:
        raise DemoError(f"{photo}: {error.strerror}") from error
    kind = mimetypes.guess_type(photo.name)[0] or "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _request(url: str, body: dict[str, Any] | None = None, token: str = "") -> bytes:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers if token else {})
    try:
        with OPENER.open(request, timeout=TIMEOUT_S) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        envelope = json.loads(error.read())
        raise DemoError(f"{envelope['error']}: {envelope['error_data']['message']}") from None
    except OSError as error:
        raise DemoError(f"the service did not answer: {error}") from error


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

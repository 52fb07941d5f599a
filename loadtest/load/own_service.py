"""Starts what benchmarks need: a service with a temporary data directory, and a photo server."""

import contextlib
import http.server
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from serve_app.launcher import CONFIG, RunningService, ServiceOptions, free_port, run_service


@contextlib.contextmanager
def own_service(change: Callable[[dict[str, Any]], None] = lambda _application: None) -> Iterator[RunningService]:
    """The embedded profile on a free port; `change` edits the application in its config first."""
    with tempfile.TemporaryDirectory(prefix="face-avatar-") as name:
        config = yaml.safe_load(CONFIG.read_text())
        change(config["applications"][0])
        path = Path(name) / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        with run_service(ServiceOptions(config=path, port=free_port(), data_dir=Path(name) / "data")) as running:
            yield running


@contextlib.contextmanager
def photo_server(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """The URL of a photo that `handler` serves on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/photo.jpg"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""A real service on a real local Serve, as its clients see it."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from PIL import Image

from deployments.types import Pixels
from serve_app.launcher import CONFIG, ServiceOptions, free_port, run_service
from tests.support.photo_server import FETCH_TIMEOUT_S

MAX_IMAGES = 8
REQUEST_TIMEOUT_S = 600


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


def config_file(folder: Path, **args: Any) -> Path:
    """The embedded config with other arguments."""
    config = yaml.safe_load(CONFIG.read_text())
    config["applications"][0]["args"] |= args
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


@contextmanager
def service_on(folder: Path, photos: str, **args: Any) -> Iterator[Service]:
    """A service that runs: on a free port, with its own data directory, private photo URLs allowed, and `args`."""
    config = config_file(
        folder,
        admission={"max_images": MAX_IMAGES, "retry_after_s": 3},
        fetch={"allow_private": True, "timeout_s": FETCH_TIMEOUT_S},
        **args,
    )
    with run_service(ServiceOptions(config=config, port=free_port(), data_dir=folder / "data")) as running:
        headers = {"Authorization": f"Bearer {running.token}"}
        with httpx.Client(base_url=running.url, headers=headers, timeout=REQUEST_TIMEOUT_S) as client:
            yield Service(running.url, running.data_dir, photos, client)

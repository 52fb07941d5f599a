"""The service that chaos works on: its clients' view, its broker, its store, its processes."""

import base64
import functools
import io
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import redis
from PIL import Image
from ray.serve.context import _get_global_client

from serve_app.backends.object_store import FOLDER
from serve_app.backends.redis import BrokerSettings, own_url
from serve_app.client import POLL_RETRIES, FaceAvatarClient
from serve_app.launcher import RunningService
from serve_app.photos.sample import sample_photo
from serve_app.tasks.keys import TaskKeys
from serve_app.tasks.models import Outcome, Task, task_files
from tests.chaos.ledger import OTHERS, REPLICAS, Order

KEYS = TaskKeys(BrokerSettings().prefix)
CALL_S = 240  # of a call, repeats included


@dataclass(frozen=True)
class Record:
    """What the broker has of a task."""

    task: Task
    status: str
    outcome: Outcome
    dead: bool
    finished_at: float

    @property
    def files(self) -> set[str]:
        """The keys that the store has to have."""
        if self.dead:
            return set(task_files(self.task))
        return {key for avatar in self.outcome.avatars for key in (avatar.key, avatar.thumbnail_key)}


class Service:
    """A service that runs on this machine, started by this process."""

    def __init__(self, running: RunningService) -> None:
        self._url = running.url
        self._files = running.data_dir / FOLDER
        self._token = running.token
        self.broker = redis.Redis.from_url(own_url(running.data_dir), decode_responses=True)

    def client(self) -> FaceAvatarClient:
        """Patient enough for the death of the proxy, which takes half a minute to come back."""
        return FaceAvatarClient(self._url, self._token, timeout_s=CALL_S, retries=POLL_RETRIES)

    def post(self, order: Order, name: str) -> str:
        """The id of a task that is sent once, without a key. Raises: httpx.HTTPError."""
        body = {"app_id": "face-avatar", "file_url": photo(order.faceless), "celery": True, **order.parameters(name)}
        headers = {"Authorization": f"Bearer {self._token}"}
        answer = httpx.post(f"{self._url}/getImageToImage", json=body, headers=headers, timeout=60)
        answer.raise_for_status()
        return str(answer.json()["task_id"])

    def processes(self) -> dict[str, set[int]]:
        """The ids of the processes of each kind that are at work; none of a kind that is still coming up."""
        deployments = _get_global_client().get_serve_details()["applications"]["face-avatar"]["deployments"]
        ours = {process.pid: _title(process) for process in psutil.Process().children(recursive=True)}
        found = {
            kind: {replica["pid"] for replica in deployments[name]["replicas"] if replica["state"] == "RUNNING"}
            for kind, name in REPLICAS.items()
        }
        found |= {kind: {pid for pid in ours if ours[pid].startswith(title)} for kind, title in OTHERS.items()}
        if not self._listens():
            found["proxy"] = set()
        return {kind: pids & ours.keys() for kind, pids in found.items()}

    def records(self) -> dict[str, Record]:
        found = {}
        for name in self.broker.scan_iter(KEYS.record("*"), count=1000):
            fields: Any = self.broker.hgetall(name)
            task = Task.model_validate_json(fields["task"])
            outcome = Outcome.model_validate_json(fields.get("outcome", "{}"))
            finished_at = float(fields.get("finished_at", 0))
            found[task.task_id] = Record(task, fields["status"], outcome, "dead" in fields, finished_at)
        return found

    def files(self) -> set[str]:
        """The keys of all files in the store, what a killed process left half written among them."""
        return {str(path.relative_to(self._files)) for path in self._files.glob("*/*") if path.is_file()}

    def _listens(self) -> bool:
        address = urlsplit(self._url)
        try:
            with socket.create_connection((address.hostname, address.port), timeout=1):
                return True
        except OSError:
            return False


def _title(process: psutil.Process) -> str:
    try:
        return Path(process.cmdline()[0]).name
    except (psutil.Error, IndexError):  # it has ended
        return ""


@functools.cache
def photo(faceless: bool) -> str:
    """A small photo as a data URL: what it costs to send and decode is not the question here."""
    shipped = sample_photo().with_name("chelsea.png") if faceless else sample_photo()
    out = io.BytesIO()
    Image.open(shipped).convert("RGB").resize((320, 320)).save(out, "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"

"""`python -m tests.frozen.write_data_dir` runs a service and keeps its data directory, with what clients were told.

In it are results, a task that was refused, a cancelled one, one that was half drawn and others that wait; the
directory's own token and one that was made. Its secrets were made for this and belong to it alone.
"""

import base64
import contextlib
import gzip
import hashlib
import io
import json
import math
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml
from PIL import Image

from serve_app.launcher import CONFIG, free_port
from serve_app.photos.sample import sample_photo
from tests.frozen.data_dir import ARCHIVE, FACTS, LOG_FOLDER
from tests.support.polling import poll
from tests.support.service_process import answers

COMMAND = Path(sys.executable).with_name("face-avatar")
KEPT = ("token", "token.sha256", "signing.key", "broker.password", "*.pem", f"{LOG_FOLDER}/*", "results/**/*.*")
LEFT_OUT = ("results/.ready",)
MAX_BYTES = 200_000
SMALL = {"app_id": "face-avatar", "width": 256, "height": 256, "output_format": "webp", "num_inference_steps": 2}
LONG = {"num_inference_steps": 50, "batch": 6}
IDEMPOTENCY_KEY = "frozen"


@contextlib.contextmanager
def running(data_dir: Path, *options: str | Path) -> Iterator[httpx.Client]:
    """`face-avatar serve` on this directory; ended with ctrl-C after the block."""
    port = free_port()
    command = [COMMAND, "serve", "--port", str(port), "--data-dir", data_dir, *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            poll(lambda: process.poll() is not None or answers(client), 240)
            yield client
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def picture(image: Image.Image) -> str:
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def request(**fields: Any) -> dict[str, Any]:
    """The body of a request, of a small photo and for small pictures."""
    face = Image.open(sample_photo()).crop((120, 20, 340, 240)).resize((160, 160))
    return {**SMALL, "file_url": picture(face), **fields}


def make(client: httpx.Client, token: str, status: int, key: str = "", **fields: Any) -> dict[str, Any]:
    headers = bearer(token) | ({"Idempotency-Key": key} if key else {})
    answer = client.post("/getImageToImage", json=request(**fields), headers=headers)
    assert answer.status_code == status, answer.text
    envelope: dict[str, Any] = answer.json()
    return envelope


def task(client: httpx.Client, token: str, task_id: str) -> dict[str, Any]:
    envelope: dict[str, Any] = client.get(f"/api/v1/tasks/{task_id}", headers=bearer(token)).json()
    return envelope


def webhook_secret(client: httpx.Client, token: str) -> str:
    return str(client.get("/api/v1/webhook-secret", headers=bearer(token)).json()["output"]["webhook_secret"])


def verdict(client: httpx.Client, token: str, image: bytes) -> dict[str, Any]:
    """What the service says of a picture that may be its own."""
    answer = client.post("/api/v1/verify", files={"file": image}, headers=bearer(token))
    output: dict[str, Any] = answer.json()["output"]
    return output


def tokens(data_dir: Path) -> list[dict[str, Any]]:
    """What operators are shown of the tokens."""
    listed: list[dict[str, Any]] = json.loads(operate(data_dir, "token", "list", "--json"))
    return listed


def operate(data_dir: Path, *arguments: str) -> str:
    command = [COMMAND, *arguments, "--data-dir", data_dir]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def fill(client: httpx.Client, data_dir: Path) -> dict[str, Any]:
    """Ask for what shall be in the directory; gives what clients and operators were told."""
    own = (data_dir / "token").read_text().strip()
    limits = ("--rate", "30", "--images", "2", "--queued", "5")
    team = operate(
        data_dir, "token", "create", "team", "--scope", "create", "--scope", "read", "--expires", "30d", *limits
    )
    finished = make(client, own, 200, seed=1, ref_id="frozen", remove_background=True)
    idempotent = make(client, team, 200, key=IDEMPOTENCY_KEY, seed=2)
    refused = make(client, own, 422, file_url=picture(Image.new("RGB", (64, 64), "grey")))
    results = [client.get(url).content for url in finished["output"]["result"]]
    facts: dict[str, Any] = {
        "own": own,
        "team": team,
        "idempotent": idempotent["task_id"],
        "sha256": [hashlib.sha256(result).hexdigest() for result in results],
        "verdict": verdict(client, own, results[0]),
        "webhook_secret": webhook_secret(client, own),
        "tokens": tokens(data_dir),
    }
    cancelled = make(client, own, 202, celery=True, seed=3)
    client.delete(f"/api/v1/tasks/{cancelled['task_id']}", headers=bearer(own))
    over = {own: [finished, refused, cancelled], team: [idempotent]}
    facts["over"] = {token: [task(client, token, each["task_id"]) for each in over[token]] for token in over}
    long = make(client, own, 202, celery=True, seed=4, **LONG)
    waiting = [
        make(client, own, 202, celery=True, seed=5),
        make(client, own, 202, celery=True, seed=6, priority="low"),
    ]
    of_team = make(client, team, 202, celery=True, seed=7)
    poll(lambda: task(client, own, long["task_id"])["status"] == "STARTED", 60)
    facts["queued"] = {own: [each["task_id"] for each in (long, *waiting)], team: [of_team["task_id"]]}
    return facts


def pack(data_dir: Path) -> bytes:
    """The files that a service cannot make anew, as an archive that says nothing of this machine."""
    packed = io.BytesIO()
    left_out = {data_dir / name for name in LEFT_OUT}
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for path in sorted({path for kept in KEPT for path in data_dir.glob(kept)} - left_out):
            member = archive.gettarinfo(path, str(path.relative_to(data_dir)))
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            with path.open("rb") as file:
                archive.addfile(member, file)
    return packed.getvalue()


def write() -> None:
    with tempfile.TemporaryDirectory(prefix="face-avatar-") as folder:
        config = yaml.safe_load(CONFIG.read_text())
        # One task at a time, which is handed back at once: so the others wait, and that one is half drawn.
        config["applications"][0]["args"]["worker"] = {"concurrency": 1, "grace_s": 0}
        config_file, data_dir = Path(folder, "config.yaml"), Path(folder, "data")
        config_file.write_text(yaml.safe_dump(config))
        with running(data_dir, "--config", config_file) as client:
            facts = fill(client, data_dir)
            for token, task_ids in facts["queued"].items():
                assert {task(client, token, task_id)["status"] for task_id in task_ids} <= {"PENDING", "STARTED"}
        facts["ended_at"] = math.ceil(time.time())
        archive = pack(data_dir)
    assert len(archive) <= MAX_BYTES, len(archive)
    ARCHIVE.write_bytes(archive)
    FACTS.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()

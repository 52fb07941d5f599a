"""A small true service over HTTP, without models: it keeps tasks, knows idempotency keys, and can be told to fail."""

import contextlib
import http.server
import io
import json
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

TOKEN = "secret-token"
CLIPPED = {"code": "clipped", "photo": 0, "message": "The file lost its end."}
FACES = {
    "width": 512,
    "height": 400,
    "faces": [{"box": [1.0, 2.0, 3.0, 4.0], "score": 0.9, "sharpness": 12.0}],
    "used": 0,
    "accepted": True,
    "reason": None,
    "message": "",
    "warnings": [CLIPPED],
}


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "application/json"
    sent: int | None = None  # so many bytes of the body, then the connection breaks off; None sends all
    drip: bool = False  # a byte at a time, for ever


@dataclass(frozen=True)
class Seen:
    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def fields(self) -> Any:
        return json.loads(self.body)


Fault = Callable[[Callable[[], Answer]], Answer | None]
"""Makes something else of a good answer, which it may or may not ask for; None drops the connection."""


def dropped_before(_answer: Callable[[], Answer]) -> None:
    return None


def dropped_after(answer: Callable[[], Answer]) -> None:
    answer()


def cut_short(answer: Callable[[], Answer]) -> Answer:
    return replace(answer(), sent=5)


def dripping(answer: Callable[[], Answer]) -> Answer:
    return replace(answer(), drip=True)


def refused(status: int, error: str, **headers: str) -> Fault:
    data = {"message": f"{error} it is."}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: Answer(status, envelope(error=error, error_data=data, status="FAILED"), named)


def by_proxy(status: int) -> Fault:
    return lambda _: Answer(status, b"<html>no upstream</html>", kind="text/html")


def envelope(**changes: Any) -> bytes:
    empty = {
        "time_required": {"startup_time": 0.0, "runtime": 0.0, "stages": {}},
        "error": "",
        "error_data": "",
        "input": {},
        "output": {},
        "app_id": "face-avatar",
        "task_id": "",
        "status": "SUCCESS",
    }
    return json.dumps(empty | changes).encode()


def picture(seed: int, kind: str = "png") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (seed % 256, 0, 0)).save(out, kind)
    return out.getvalue()


@dataclass
class FakeService:
    """`looks`: how many status reads, or events, a queued task is not finished for. `streams`: it has events.

    `faults` spoil the next answers, one each.
    """

    url: str = ""
    looks: int = 1
    streams: bool = True
    faults: deque[Fault] = field(default_factory=deque)
    seen: list[Seen] = field(default_factory=list)
    receipt: dict[str, Any] = field(default_factory=dict)  # but for the seed
    models: dict[str, str] = field(default_factory=lambda: {"face-avatar": "embedded"})  # what each app draws with
    fallback_app_id: str | None = None  # of each app
    fast: dict[str, Any] | None = None  # the preset of each app
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    by_key: dict[str, str] = field(default_factory=dict)
    reads: dict[str, int] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    def answer(self, seen: Seen) -> Answer | None:
        self.seen.append(seen)
        if self.faults:
            return self.faults.popleft()(lambda: self._answer(seen))
        return self._answer(seen)

    def _answer(self, seen: Seen) -> Answer:
        path = urlsplit(seen.target).path  # through a proxy, a target is a whole URL
        if path in self.files:
            return Answer(200, self.files[path], kind="image/png")
        if seen.headers.get("authorization") != f"Bearer {TOKEN}":
            return Answer(401, envelope(error="Unauthorized", error_data={"message": "No."}, status="FAILED"))
        if path == "/getImageToImage":
            return self._create(seen)
        if path == "/api/v1/apps":
            app: dict[str, Any] = {"title": "Avatar", "licence": "free", "native_sizes": [[256, 256]]}
            app |= {
                "defaults": {"width": 256},
                "prompt": "new",
                "vocabulary": {"people": ["man", "woman"]},
                "fallback_app_id": self.fallback_app_id,
                "fast": self.fast,
            }
            return Answer(
                200,
                envelope(
                    output={
                        "apps": [{"app_id": app_id} | app | {"model": model} for app_id, model in self.models.items()]
                    }
                ),
            )
        if path == "/api/v1/faces":
            return Answer(200, envelope(output=FACES))
        if path == "/api/v1/verify":
            return Answer(
                200, envelope(output={"verdict": "genuine", "ours": True, "intact": True, "message": "Ours."})
            )
        if self.streams and path.endswith("/events"):
            return self._events(path.split("/")[-2], int(seen.headers.get("last-event-id", 0)))
        return self._task(seen.method, path.rpartition("/")[2])

    def _create(self, seen: Seen) -> Answer:
        fields = seen.fields
        task_id = self.by_key.setdefault(seen.headers["idempotency-key"], str(uuid.uuid4()))
        if task_id not in self.tasks:
            self.tasks[task_id] = self._draw(task_id, fields)
        if fields["celery"]:
            return Answer(202, envelope(task_id=task_id, status="PENDING"))
        return Answer(200, envelope(**self.tasks[task_id]))

    def _draw(self, task_id: str, fields: dict[str, Any]) -> dict[str, Any]:
        seeds = [fields.get("seed", 7) + index for index in range(fields.get("batch", 1))]
        for seed in seeds:
            self.files[f"/files/{task_id}/{seed}"] = picture(seed, fields.get("output_format", "png"))
        urls = [f"{self.url}/files/{task_id}/{seed}?signature=s" for seed in seeds]
        photos = [photo.partition(",")[0].partition("?")[0] for photo in fields.get("file_urls", [])]
        shown = photos[0] if photos else fields["file_url"].partition(",")[0].partition("?")[0]
        return {
            "time_required": {"startup_time": 0.0, "runtime": 2.5, "stages": {"face": 0.5, "diffusion": 2.0}},
            "task_id": task_id,
            "input": fields | {"file_url": shown, "file_urls": photos or None},
            "output": {
                "result": urls,
                "low_res_urls": urls,
                "Has_NSFW_Content": [False] * len(seeds),
                "seeds": seeds,
                "face_similarity": [0.75, None, 0.25, -0.5][: len(seeds)],
                "receipts": [self.receipt | {"seed": seed} for seed in seeds],
                "warnings": [CLIPPED],
                "attempts": [[{"seed": seed, "face_similarity": 0.75}] for seed in seeds],
            },
        }

    def _task(self, method: str, task_id: str) -> Answer:
        if task_id not in self.tasks:
            data = {"message": f"There is no task {task_id}."}
            return Answer(404, envelope(error="Unknown Task", error_data=data, status="FAILED"))
        if method == "DELETE":
            return Answer(200, envelope(task_id=task_id, status="CANCELLED"))
        reads = self.reads[task_id] = self.reads.get(task_id, 0) + 1
        if reads > self.looks:
            return Answer(200, envelope(**self.tasks[task_id]))
        return Answer(200, self._unfinished(task_id, reads))

    def _events(self, task_id: str, last: int) -> Answer:
        """All at once: what comes after the event `last`."""
        if task_id not in self.tasks:
            return self._task("GET", task_id)
        states = [self._unfinished(task_id, step) for step in range(1, self.looks + 1)]
        states.append(envelope(**self.tasks[task_id]))
        events = [b"id: %d\nevent: e\ndata: %s\n\n" % (number, state) for number, state in enumerate(states, 1)]
        self.reads[task_id] = self.reads.get(task_id, 0) + 1
        return Answer(200, b"retry: 1000\n\n: here\n\n" + b"".join(events[last:]), kind="text/event-stream")

    def _unfinished(self, task_id: str, step: int) -> bytes:
        progress = {"step": step, "steps": 12, "images_done": 0, "images": 1, "queue_position": 0, "eta_s": None}
        return envelope(task_id=task_id, status="STARTED", output={"progress": progress | {"image_steps": [step]}})


@contextlib.contextmanager
def serving() -> Iterator[FakeService]:
    """The service on a free port of loopback; ended after the block."""
    service = FakeService()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = service.answer(Seen(self.command, self.path, headers, body))
            self.close_connection = answer is None or answer.drip or answer.sent is not None
            if answer is not None:
                with contextlib.suppress(OSError):  # whoever asked may have left
                    self._send(answer)

        do_POST = do_DELETE = do_GET  # noqa: N815

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            fixed = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body) + 1000 * answer.drip)}
            for name, value in (fixed | answer.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body[: answer.sent])
            while answer.drip and not service.ended.wait(0.02):
                self.wfile.write(b" ")

        def log_message(self, *_args: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield service
    finally:
        service.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()

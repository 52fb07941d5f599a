"""Each way into the service, the same without that way, and what base64 and the store take of it."""

import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from loadtest.bench.ways.stub import KEY, THUMBNAIL_SIDE, StubService, answer_to, picture, reference_photo
from serve_app.generation.validation import Caller
from serve_app.photos.source import PhotoSource
from serve_app.schemas.requests import AvatarRequest

HOST = "127.0.0.1:8000"
LINKS = f"http://{HOST}"
BOUNDARY = "a-boundary-of-forms"
Work = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Way:
    """A request, `without`: the same without this way, `data`: its base64 and reads of the store."""

    name: str
    request: Work
    without: Work
    data: Work


def ways_of(stub: StubService, photo_url: str) -> list[Way]:
    """All ways; the photo is in the request, and for agents at a URL."""
    photo = reference_photo()
    inline = f"data:image/jpeg;base64,{base64.b64encode(photo).decode()}"
    native = json.dumps({"app_id": "face-avatar", "file_url": inline}).encode()
    call = {"name": "make_avatars", "arguments": {"photo": photo_url}}
    tool = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}).encode()
    form_type, json_type = f"multipart/form-data; boundary={BOUNDARY}", "application/json"
    plain, edit = form("file", app_id="face-avatar"), form("image", prompt="", model="face-avatar")

    def sent(path: str, body: bytes, content_type: str, proof: bytes) -> Work:
        async def send() -> None:
            status, answer = await answer_to(stub.app, scope_of(path, body, content_type, stub.token), body)
            if status != 200 or proof not in answer:
                raise RuntimeError(f"{path}: {status} {answer[:500]!r}")

        return send

    async def decoded() -> None:
        base64.b64decode(inline.partition(",")[2])

    async def nothing() -> None:
        pass

    thumbnail = picture("WEBP", THUMBNAIL_SIDE)

    async def picture_in_base64() -> None:
        base64.b64encode(await stub.results.get(KEY)).decode()

    async def thumbnail_in_base64() -> None:
        base64.b64encode(thumbnail).decode()

    make = "/getImageToImage"
    return [
        Way("JSON", sent(make, native, json_type, b'"SUCCESS"'), made(stub, photo), decoded),
        Way("form", sent(make, plain, form_type, b'"SUCCESS"'), made(stub, photo), nothing),
        Way("OpenAI", sent("/v1/images/edits", edit, form_type, b"b64_json"), made(stub, photo), picture_in_base64),
        Way("MCP", sent("/mcp", tool, json_type, b"image/webp"), followed(stub, photo_url), thumbnail_in_base64),
    ]


def made(stub: StubService, photo: bytes) -> Work:
    """A request that waits for its avatar."""

    async def make() -> None:
        request = AvatarRequest(app_id="face-avatar", file_url=PhotoSource(photo))
        caller = await caller_of(stub)
        record = await stub.service.creation.create(stub.service.validator.task(request, caller), request, caller)
        await stub.service.envelope(record, LINKS)

    return make


def followed(stub: StubService, photo_url: str) -> Work:
    """The three requests of an agent's call as any client makes them: queue, follow, fetch the thumbnail."""
    body = json.dumps({"app_id": "face-avatar", "file_url": photo_url, "celery": True}).encode()

    async def ask(method: str, url: str, sent: bytes = b"") -> bytes:
        scope = {**scope_of(url, sent, "application/json", stub.token), "method": method}
        status, answer = await answer_to(stub.app, scope, sent)
        if status not in (200, 202):
            raise RuntimeError(f"{url}: {status} {answer[:500]!r}")
        return answer

    async def follow() -> None:
        task = json.loads(await ask("POST", "/getImageToImage", body))
        events = await ask("GET", f"/api/v1/tasks/{task['task_id']}/events")
        done = json.loads(events.rpartition(b"data: ")[2])
        await ask("GET", done["output"]["low_res_urls"][0].removeprefix(LINKS))

    return follow


async def caller_of(stub: StubService) -> Caller:
    """Whose token it is, as every request finds out."""
    authenticated = await stub.access.authenticate(f"Bearer {stub.token}", ["create"])
    return Caller(authenticated.token.owner, None, LINKS, authenticated.token)


def form(photo: str, **fields: str) -> bytes:
    """A form with the reference photo as the part of this name."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{photo}"; filename="me.jpg"\r\n\r\n'.encode()
    return b"".join([*parts, head, reference_photo(), f"\r\n--{BOUNDARY}--\r\n".encode()])


def scope_of(target: str, body: bytes, content_type: str, token: str) -> Scope:
    """The head of a POST, as a server hands it over."""
    path, _, query = target.partition("?")
    headers: dict[str, Any] = {
        "host": HOST,
        "authorization": f"Bearer {token}",
        "content-type": content_type,
        "content-length": str(len(body)),
        "accept": "application/json, text/event-stream",
    }
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "state": {},
    }

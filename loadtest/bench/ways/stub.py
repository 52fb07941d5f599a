"""The service of an ingress and a worker whose stages are a stub: all results are one avatar, made beforehand."""

import asyncio
import functools
import http.server
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.types import Photo
from loadtest.bench.photo_handler import handler_of
from serve_app.api.app import build_http
from serve_app.auth.access import Access
from serve_app.auth.owner_use import OwnerUse
from serve_app.auth.tokens import OwnToken
from serve_app.auth.usage import UsageBook
from serve_app.backends.object_store import Results, StoreSettings, result_key, thumbnail_key
from serve_app.backends.redis import connect
from serve_app.backends.secrets import TOKEN_FILE
from serve_app.catalog.catalog import Catalog
from serve_app.generation.container import Container
from serve_app.generation.service import AvatarService
from serve_app.photos.sample import sample_photo
from serve_app.pipeline.job import AvatarJob, ImageDone
from serve_app.pipeline.pipeline import JobResult
from serve_app.settings import Settings
from serve_app.tasks.models import StoredAvatar
from serve_app.tasks.store import TaskStore
from serve_app.tasks.stream import TaskQueue
from serve_app.worker.consumer import TaskWorker

STORED = "00000000-0000-7000-8000-000000000000"
KEY, THUMBNAIL = result_key(STORED, 0, "png"), thumbnail_key(STORED, 0)
SIDE, THUMBNAIL_SIDE = 512, 128  # pixels
PHOTO_SIDE = 320
SIGNING_KEY = b"the key of a stub"
TTL_S = 3600


class StubPipeline:
    """In place of the stages: every image is the avatar that is stored already."""

    async def run(self, job: AvatarJob, photos: Sequence[Photo], image_done: ImageDone) -> JobResult:
        """One image, at once."""
        avatar = StoredAvatar(KEY, THUMBNAIL, job.seed(0, 0), 0.9, 0.0, 0.0, 0.0, 0.0)
        await image_done(0, avatar)
        return JobResult([avatar], 0.0)


@dataclass(frozen=True)
class StubService:
    """An ingress without Serve: its application, what is behind that, and a token."""

    app: ASGIApp
    service: AvatarService
    access: Access
    results: Results
    token: str


def settings_of(data_dir: Path) -> Settings:
    """Photos may come from this machine; what one token may keep is without bounds."""
    return Settings.model_validate({"data_dir": data_dir, "fetch": {"allow_private": True}})


def container_of(settings: Settings, name: str) -> Container:
    """The dependencies of a replica, with the stub for its stages."""
    redis = connect(settings.broker, settings.data_dir)
    results = Results.open(StoreSettings(), data_dir=settings.data_dir, signing_key=SIGNING_KEY, ttl_s=TTL_S)
    pipeline: Any = StubPipeline()
    usage = UsageBook(redis, settings.tokens.usage_days)
    tasks = TaskStore(redis, name, settings.result_ttl_s)
    catalog = Catalog.read(settings.catalogs)
    return Container(redis, name, catalog, results, tasks, SIGNING_KEY, pipeline, OwnerUse(redis), usage)


@asynccontextmanager
async def stub_service(data_dir: Path) -> AsyncIterator[StubService]:
    """A running ingress on the broker of this directory, and the stored avatar."""
    settings = settings_of(data_dir)
    container = container_of(settings, "ingress")
    own = OwnToken(data_dir)
    access = Access(container.redis, settings.tokens, container.usage, container.use, own)
    service = AvatarService(settings, container)
    await container.results.put(KEY, picture("PNG", SIDE))
    await container.results.put(THUMBNAIL, picture("WEBP", THUMBNAIL_SIDE))
    app = build_http(service, access, settings, no_stages)
    async with lifespan_of(app):
        yield StubService(app, service, access, container.results, (data_dir / TOKEN_FILE).read_text().strip())


async def no_stages() -> dict[str, str]:
    """There are none."""
    return {}


def picture(kind: str, side: int) -> bytes:
    """The sample photo in this format."""
    file = io.BytesIO()
    Image.open(sample_photo()).convert("RGB").resize((side, side)).save(file, kind)
    return file.getvalue()


def work_in_process(data_dir: Path) -> None:
    """Do what is queued, until the process is ended."""
    asyncio.run(_work(data_dir))


async def _work(data_dir: Path) -> None:
    container = container_of(settings_of(data_dir), "worker")
    queue = TaskQueue(container.redis, "worker")
    await TaskWorker(container.tasks, queue, container.execution(queue), container.results, concurrency=4).run()


@functools.cache
def reference_photo() -> bytes:
    """The photo of every request."""
    return picture("JPEG", PHOTO_SIDE)


def serve_photo(port: int) -> None:
    """The photo on a port of this machine, until the process is ended."""
    http.server.ThreadingHTTPServer(("127.0.0.1", port), handler_of(reference_photo())).serve_forever()


@asynccontextmanager
async def lifespan_of(app: ASGIApp) -> AsyncIterator[None]:
    """The application between its start and its end, as a server runs it."""
    received: asyncio.Queue[Message] = asyncio.Queue()
    sent: asyncio.Queue[Message] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}}

    async def run() -> None:
        await app(scope, received.get, sent.put)

    running = asyncio.create_task(run())
    await received.put({"type": "lifespan.startup"})
    await sent.get()
    yield
    await received.put({"type": "lifespan.shutdown"})
    await running


async def answer_to(app: ASGIApp, scope: Scope, body: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to one request, without a server or a client that would take time."""
    requests: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    status, parts = 0, []

    async def receive() -> Message:
        if requests:
            return requests.pop()
        await asyncio.Event().wait()  # a client that stays
        raise AssertionError("nobody sets the event")

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    receiving: Receive = receive
    sending: Send = send
    await app(scope, receiving, sending)
    return status, b"".join(parts)

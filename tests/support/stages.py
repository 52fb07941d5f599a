"""Stages whose outcomes are prepared, in place of handles of Serve's deployments."""

import asyncio
import time
from pathlib import Path
from typing import Any

from ray.exceptions import ActorDiedError
from ray.serve.exceptions import RayServeException

from deployments.types import Avatar, Photo
from serve_app.backends.object_store import Results, StoreSettings
from serve_app.catalog.catalog import Catalog
from serve_app.pipeline.job import AvatarJob
from serve_app.pipeline.pipeline import AvatarPipeline, JobResult
from serve_app.schemas.requests import AvatarRequest, EffectiveRequest
from serve_app.tasks.models import StoredAvatar

TASK = "018f0000-0000-7000-8000-000000000000"
PHOTO = Photo(None)  # type: ignore[arg-type]  # no stage looks at it


class Response:
    """What a call gives, or raises, or waits for without end; it knows whether it was cancelled."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.cancelled = False

    def __await__(self) -> Any:
        if self.outcome is ...:
            yield from asyncio.Event().wait().__await__()
        if self.outcome is LATE:
            yield from asyncio.sleep(0.05).__await__()
            return AVATAR
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    async def _to_object_ref(self) -> None:
        if self.outcome is UNASSIGNED:
            await asyncio.Event().wait()

    def cancel(self) -> None:
        self.cancelled = True
        if isinstance(self.outcome, RayServeException):
            raise self.outcome  # as Serve does where the call never reached a replica


class Stage:
    """A deployment handle whose every method gives the next of the prepared outcomes, the last one for ever."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.responses: list[Response] = []
        self.arguments: list[tuple[Any, ...]] = []
        self.named: list[dict[str, Any]] = []

    def __getattr__(self, _method: str) -> "Stage":
        return self

    def options(self, **_options: Any) -> "Stage":
        return self

    def remote(self, *arguments: Any, **named: Any) -> Response:
        self.arguments.append(arguments)
        self.named.append(named)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        self.responses.append(Response(outcome))
        return self.responses[-1]


class Embedder(Stage):
    def __init__(self, *outcomes: Any, similarity: Any = 0.5, places: tuple[Any, ...] = (None,)) -> None:
        super().__init__(*outcomes)
        self.similarity = Stage(similarity)
        self.locate = Stage(*places)


AVATAR = Avatar(b"picture", b"thumbnail", "png", startup_s=0, diffusion_s=1, finish_s=1)
LATE = object()  # `AVATAR` after a while
UNASSIGNED = object()  # no replica takes the call
DIED = ActorDiedError()
CHAIN_BROKE = RayServeException("an earlier stage died")


def job(
    batch: int = 1,
    done: dict[int, StoredAvatar] | None = None,
    size: tuple[int, int] = (512, 512),
    face_model: str | None = None,
    start_deadline_s: float | None = None,
) -> AvatarJob:
    width, height = size
    request = AvatarRequest(
        app_id="face-avatar",
        file_url="https://example.org/me.jpg",
        batch=batch,
        width=width,
        height=height,
        start_deadline_s=start_deadline_s,
    )
    app = Catalog.read(["embedded"])["face-avatar"]
    effective = EffectiveRequest.fill(request, app, seed=7, deadline_s=60)
    submitted_at = 0.0 if start_deadline_s is None else time.time()
    return AvatarJob(TASK, "ann", effective, "embedded", (256, 256), submitted_at, done or {}, face_model=face_model)


def run_job(
    data_dir: Path,
    embedder: Stage,
    generator: Stage,
    remover: Stage,
    batch: int = 1,
    timeout_s: float = 10,
    stored: dict[int, StoredAvatar] | None = None,
    size: tuple[int, int] = (512, 512),
    face_model: str | None = None,
    start_deadline_s: float | None = None,
) -> JobResult:
    """What the pipeline makes of a job with these stages, and a store in `data_dir`."""

    async def within() -> JobResult:
        results = Results.open(StoreSettings(), data_dir=data_dir, signing_key=b"key", ttl_s=60)
        pipeline: Any = AvatarPipeline
        images_done = []

        async def image_done(index: int, _avatar: StoredAvatar) -> None:
            images_done.append(index)

        async with asyncio.timeout(timeout_s):
            done: JobResult = await pipeline(embedder, generator, remover, results).run(
                job(batch, stored, size, face_model, start_deadline_s), [PHOTO], image_done
            )
            assert len(images_done) == batch - len(stored or {})
            return done

    return asyncio.run(within())

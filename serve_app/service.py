"""What the service does with a request, free of HTTP and of Serve."""

import asyncio
import os
import secrets
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from deployments.errors import DeadlineError
from deployments.types import Photo
from serve_app.catalog import Catalog
from serve_app.errors import OverloadedError
from serve_app.fetch import PhotoFetcher
from serve_app.photo import decode_photo
from serve_app.pipeline import AvatarJob, AvatarPipeline, JobResult
from serve_app.schemas import MAX_SEED, AvatarOutput, AvatarRequest, EffectiveRequest, Envelope, TimeRequired
from serve_app.settings import Settings
from serve_app.storage import LocalResults

DECODERS = 2  # photos decoded at once by one ingress replica


class Admission:
    """How many images are being made at once; what would be too many is refused before any work is done for it."""

    def __init__(self, max_images: int, retry_after_s: int) -> None:
        self._max_images = max_images
        self._retry_after_s = retry_after_s
        self._images = 0

    @contextmanager
    def admit(self, images: int) -> Iterator[None]:
        """Raises: OverloadedError."""
        if self._images + images > self._max_images:
            raise OverloadedError(f"{self._images} images are being made already.", self._retry_after_s)
        self._images += images
        try:
            yield
        finally:
            self._images -= images


@dataclass
class Progress:
    """How far a request came: enough to fill the envelope of its answer, whatever that answer is."""

    started: float = field(default_factory=time.perf_counter)
    app_id: str = ""
    task_id: str = ""
    input: dict[str, object] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def runtime_s(self) -> float:
        return time.perf_counter() - self.started

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.stages[name] = round(time.perf_counter() - started, 4)

    def envelope(self, *, startup_s: float = 0.0) -> Envelope:
        return Envelope(
            time_required=TimeRequired(
                startup_time=round(startup_s, 4), runtime=round(self.runtime_s, 4), stages=self.stages
            ),
            input=self.input,
            app_id=self.app_id,
            task_id=self.task_id,
        )


class AvatarService:
    """Takes a checked request to its answer: admit, fetch, decode, pipeline, URLs."""

    def __init__(self, settings: Settings, catalog: Catalog, results: LocalResults, pipeline: AvatarPipeline) -> None:
        self.catalog = catalog
        self.results = results
        self._settings = settings
        self._pipeline = pipeline
        self._fetcher = PhotoFetcher(settings.fetch)
        # Its own threads: look-ups of slow names fill those of the event loop. Few, for the memory of large photos.
        self._decoders = ThreadPoolExecutor(DECODERS, "decode")
        self._admission = Admission(settings.admission.max_images, settings.admission.retry_after_s)

    async def create(self, request: AvatarRequest, progress: Progress, base_url: str) -> Envelope:
        """Make the avatars and wait for them; `progress` is filled on the way, for the answer to an error too.

        Raises: AvatarError of every kind that the contract's table names.
        """
        progress.app_id = request.app_id
        app = self.catalog[request.app_id]
        effective = EffectiveRequest.fill(
            request, app, seed=secrets.randbelow(MAX_SEED + 1), deadline_s=self._settings.deadline_s
        )
        progress.input = effective.model_dump()
        with self._admission.admit(effective.batch):
            progress.task_id = new_task_id()
            job = AvatarJob(
                task_id=progress.task_id,
                request=effective,
                model=app.model,
                native_size=app.native_size(effective.width, effective.height),
                submitted_at=time.time(),
            )
            try:
                async with asyncio.timeout(effective.deadline_s):
                    photo = await self._photo(request.file_url, progress)
                    done = await self._pipeline.run(job, photo)
            except TimeoutError:
                raise DeadlineError(f"Not done within {effective.deadline_s:g} s.") from None
        return self._answer(done, progress, base_url)

    async def _photo(self, url: str, progress: Progress) -> Photo:
        with progress.stage("fetch"):
            data = await self._fetcher.fetch(url)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._decoders, decode_photo, data, self._settings.photo)

    def _answer(self, done: JobResult, progress: Progress, base_url: str) -> Envelope:
        avatars = done.avatars
        progress.stages |= {
            "face": round(done.face_s, 4),
            "diffusion": round(max(avatar.diffusion_s for avatar in avatars), 4),
            "finish": round(max(avatar.finish_s for avatar in avatars), 4),
            "store": round(max(avatar.store_s for avatar in avatars), 4),
        }
        envelope = progress.envelope(startup_s=max(avatar.startup_s for avatar in avatars))
        output = AvatarOutput(
            result=[self.results.url(avatar.key, base_url) for avatar in avatars],
            low_res_urls=[self.results.url(avatar.thumbnail_key, base_url) for avatar in avatars],
            Has_NSFW_Content=[False] * len(avatars),  # no app of the catalogue has a safety stage yet
            seeds=[avatar.seed for avatar in avatars],
            face_similarity=[avatar.face_similarity for avatar in avatars],
        )
        return envelope.model_copy(update={"output": output.model_dump()})

    async def close(self) -> None:
        await self._fetcher.close()
        self._decoders.shutdown(wait=False)


def new_task_id() -> str:
    """UUID version 7 (RFC 9562): ids sort by the millisecond of their creation."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))

"""Pictures of clients, without making any: fetched and decoded, checked before a request, verified as results."""

import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from deployments.common.time_limit import ends_by
from deployments.errors import DeadlineError
from deployments.types import Photo
from serve_app.auth.owner_use import OwnerUse
from serve_app.errors import RateLimitError, naming_photo
from serve_app.generation.admission import FairSlots
from serve_app.generation.settings import GenerationSettings
from serve_app.photos.decoder_pool import PhotoDecoder
from serve_app.photos.fetch import PhotoFetcher
from serve_app.photos.source import PhotoSource
from serve_app.pipeline.calls import all_or_none
from serve_app.pipeline.pipeline import AvatarPipeline
from serve_app.provenance.signing import Provenance
from serve_app.provenance.verify import CredentialReader, VerifyOutput
from serve_app.schemas.faces import Preflight

T = TypeVar("T")


class PhotoIntake:
    """Fetches and decodes the photos of one ingress replica."""

    def __init__(self, settings: GenerationSettings, use: OwnerUse) -> None:
        admission = settings.admission
        self._fetcher = PhotoFetcher(settings.fetch)
        self._fetches = FairSlots(admission.max_fetches, "photos are being fetched", admission.retry_after_s, use)
        self.decoder = PhotoDecoder(settings.photo, settings.decoder, use)

    async def fetch(self, source: PhotoSource, owner: str) -> bytes:
        """Raises: ImageUrlError; OverloadedError where the owner fetches more than its share, or it was dropped."""
        with self._fetches.hold(owner):
            return await self._fetcher.fetch(source, owner)

    async def photos(self, sources: Sequence[PhotoSource], owner: str) -> list[Photo]:
        """The decoded photos, fetched at once; the bytes of uploads are dropped. Raises: as `fetch`."""
        several = len(sources)
        with self._fetches.hold(owner, several):  # all at once: an owner that fetches nothing always gets these
            files = await all_or_none(
                _naming(photo, several, self._fetcher.fetch(source, owner)) for photo, source in enumerate(sources)
            )
        photos = await all_or_none(
            _naming(photo, several, self.decoder.decode(file, owner)) for photo, file in enumerate(files)
        )
        for source in sources:
            source.drop()  # what follows may take minutes
        return photos


async def _naming(photo: int, photos: int, work: Coroutine[Any, Any, T]) -> T:
    with naming_photo(photo, photos):
        return await work


class PictureInspection:
    """Inspects pictures for one ingress replica, a limited number at once. Leaves no records."""

    def __init__(
        self, settings: GenerationSettings, intake: PhotoIntake, pipeline: AvatarPipeline, use: OwnerUse
    ) -> None:
        admission = settings.admission
        self._intake = intake
        self._pipeline = pipeline
        self._use = use
        self._deadline_s = settings.deadline_s
        self._slots = FairSlots(admission.max_inspections, "pictures are looked at", admission.retry_after_s, use)
        certificates = Provenance(settings.provenance, settings.broker, settings.data_dir).certificates()
        self._credentials = CredentialReader(certificates, settings.decoder, use)

    async def preflight(self, source: PhotoSource, owner: str, face_model: str | None = None) -> Preflight:
        """The faces of a photo by this face model, and whether it would be accepted. Scales no generator up.

        Raises: ImageUrlError; OverloadedError; DeadlineError.
        """
        started = time.perf_counter()
        async with self._inspecting(owner):
            (photo,) = await self._intake.photos([source], owner)
            fetched = time.perf_counter()
            found = await self._pipeline.inspect(photo, self._use.used_s(owner), face_model)
            face_s = time.perf_counter() - fetched
        return Preflight.of(photo, found, fetch_s=fetched - started, face_s=face_s)

    async def verify(self, source: PhotoSource, owner: str) -> VerifyOutput:
        """Whether a picture is an unmodified one of this service.

        Raises: ImageUrlError; OverloadedError; DeadlineError.
        """
        async with self._inspecting(owner):
            data = await self._intake.fetch(source, owner)
            found = await self._credentials.verify(data, owner)
            if found.credentials is None:
                await self._intake.decoder.decode(data, owner)  # raises where it is no picture at all
        return found

    async def close(self) -> None:
        """End the process that reads credentials."""
        await self._credentials.close()

    @asynccontextmanager
    async def _inspecting(self, owner: str) -> AsyncIterator[None]:
        """Limits how many pictures are inspected at once, and how long. Raises: OverloadedError; DeadlineError."""
        with self._slots.hold(owner):
            late = DeadlineError(f"Not done within {self._deadline_s:g} s.")
            try:
                async with ends_by(time.time() + self._deadline_s, late):
                    yield
            except RateLimitError:
                self._use.charge_refusal(owner)
                raise

"""From the photo of a request to its pixels: fetched and decoded within limits."""

from deployments.types import Photo
from serve_app.auth.owner_use import OwnerUse
from serve_app.generation.admission import FairSlots
from serve_app.generation.settings import GenerationSettings
from serve_app.photos.decoder_pool import PhotoDecoder
from serve_app.photos.fetch import PhotoFetcher
from serve_app.photos.source import PhotoSource


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

    async def photo(self, source: PhotoSource, owner: str) -> Photo:
        """The decoded photo; the bytes of an upload are dropped. Raises: as `fetch`."""
        photo = await self.decoder.decode(await self.fetch(source, owner), owner)
        source.drop()  # what follows may take minutes
        return photo

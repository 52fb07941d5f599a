"""Adds chunks of requests to a batch: their photos go into the store as those of queued tasks do, then all are added.

In this order, so that a process may die at any point:

1. The broker says which requests are new, and reserves the ids of their tasks: retention keeps the files of these for a
   while. Each attempt takes new ids, so no two ever write or delete the same file.
2. Photos are fetched, decoded and stored, and beside them the requests. Whoever dies here leaves files that nothing
   names once the reservation is over; they are deleted as orphans then.
3. One script adds all of them to the batch. A client that heard nothing of that sends the chunk again: by their digests
   the requests are known, and nothing is added.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from deployments.errors import DeadlineError, NoFaceError
from deployments.types import Photo
from serve_app.backends.object_store import Results, photo_keys, request_key
from serve_app.batches.models import DIGEST_CHARS, Batch, BatchItem, NewRequest, Verdict
from serve_app.batches.requests import LineErrors
from serve_app.batches.store import BatchStore
from serve_app.errors import (
    ConflictError,
    ForbiddenError,
    ImageUrlError,
    InvalidRequestError,
    OverloadedError,
    TooLargeError,
    UnknownAppError,
)
from serve_app.generation.pictures import PhotoIntake
from serve_app.generation.settings import BatchSettings
from serve_app.generation.validation import Caller, RequestValidator
from serve_app.photos.decode import pack_photo
from serve_app.pipeline.calls import all_or_none
from serve_app.schemas.requests import body_digest
from serve_app.tasks.models import Task

PHOTOS_AT_ONCE = 4  # requests of one chunk
ADD_S = 120  # for the photos of one chunk
DELETED_AT_ONCE = 100  # files
FAULTS_OF_LINES = (InvalidRequestError, UnknownAppError, ForbiddenError, ImageUrlError, NoFaceError)


class _Entry(NamedTuple):
    """A request on its way into the batch, and what it will be there."""

    new: NewRequest
    task: Task
    item: BatchItem


class ChunkIntake:
    """Adds chunks in one ingress replica."""

    def __init__(
        self,
        store: BatchStore,
        results: Results,
        photos: PhotoIntake,
        validator: RequestValidator,
        settings: BatchSettings,
    ) -> None:
        self._store = store
        self._results = results
        self._photos = photos
        self._validator = validator
        self._settings = settings

    async def add(self, batch: Batch, requests: Sequence[NewRequest], caller: Caller) -> int:
        """Add a chunk, all of it or nothing; returns how many of its requests the batch did not have yet.

        Raises: InvalidRequestError, with an entry for each problem of a line; ConflictError where the batch takes no
        more; TooLargeError; OverloadedError; DeadlineError.
        """
        entries = await self._entries(requests, caller)
        verdict = await self._store.reserve(batch, [entry.item for entry in entries])
        fresh = [entries[at] for at in self._accepted(verdict, entries)]
        if not fresh:
            return 0
        async with self._keeping(fresh) as kept:
            stored = await self._stored(fresh, batch.owner)
            kept += [entry.item for entry in fresh]  # they may be added although no answer comes
            verdict = await self._store.add(batch, [*zip((entry.item for entry in fresh), stored, strict=True)])
            kept.clear()
            # Of two attempts that run side by side the first one adds, and the other deletes its own files.
            kept += [fresh[at].item for at in self._accepted(verdict, fresh)]
        return len(kept)

    @asynccontextmanager
    async def _keeping(self, entries: Sequence[_Entry]) -> AsyncIterator[list[BatchItem]]:
        """Deletes the files of the entries that the block did not put into the list, whatever happens in it."""
        kept: list[BatchItem] = []
        try:
            yield kept
        finally:
            lost = [entry.item for entry in entries if entry.item not in kept]
            if lost:  # where even this fails, they are orphans when their reservation is over
                await asyncio.shield(asyncio.create_task(delete_files(self._results, lost)))

    async def _entries(self, requests: Sequence[NewRequest], caller: Caller) -> list[_Entry]:
        """Raises: InvalidRequestError."""
        digests = await asyncio.to_thread(lambda: [body_digest(new.request) for new in requests])
        errors, entries = LineErrors(), []
        for new, digest in zip(requests, digests, strict=True):
            try:
                task = self._validator.task(new.request, caller)
            except FAULTS_OF_LINES as error:
                errors.add(new.line, new.custom_id, error)
                continue
            short = hashlib.sha256(digest.encode()).hexdigest()[:DIGEST_CHARS]
            item = BatchItem(new.custom_id, task.task_id, short, len(new.request.photos))
            entries.append(_Entry(new, task, item))
        errors.check()
        return entries

    def _accepted(self, verdict: Verdict, entries: Sequence[_Entry]) -> list[int]:
        """The positions of what is new. Raises: InvalidRequestError; ConflictError; TooLargeError."""
        errors = LineErrors()
        for at in verdict.changed:
            problem = {"field": "custom_id", "message": "the batch has another request of this name"}
            new = entries[at].new
            errors.add(new.line, new.custom_id, InvalidRequestError("It differs.", fields=[problem]))
        errors.check()
        if verdict.state == "closed":
            raise ConflictError("This batch takes no more requests: open another one.")
        if verdict.state == "full":
            most = self._settings.max_requests
            raise InvalidRequestError(
                f"A batch has at most {most} requests.", fields=[{"field": "body", "message": "too many requests"}]
            )
        if verdict.state == "large":
            most = self._settings.max_bytes
            raise TooLargeError(f"The photos of a batch take at most {most} bytes in the store.", max_bytes=most)
        return verdict.fresh

    async def _stored(self, entries: Sequence[_Entry], owner: str) -> list[int]:
        """The bytes that each takes in the store. Raises: InvalidRequestError; OverloadedError; DeadlineError."""
        errors, sizes = LineErrors(), [0] * len(entries)
        left = iter(enumerate(entries))
        until = time.monotonic() + ADD_S

        async def store_next() -> None:
            for at, entry in left:
                try:
                    photos = await self._decoded(entry, owner, until)
                except FAULTS_OF_LINES as error:
                    errors.add(entry.new.line, entry.new.custom_id, error)
                    continue
                sizes[at] = await self._put(entry, photos)

        try:
            async with asyncio.timeout(ADD_S):
                await all_or_none(store_next() for _ in range(PHOTOS_AT_ONCE))
        except TimeoutError:
            message = f"The photos did not all arrive and decode within {ADD_S} s: send fewer at once."
            raise DeadlineError(message) from None
        errors.check()
        return sizes

    async def _decoded(self, entry: _Entry, owner: str, until: float) -> list[Photo]:
        """Waits where the owner decodes too much: a chunk that is refused for that would start from its beginning."""
        while True:
            try:
                return await self._photos.photos(entry.new.request.photos, owner)
            except OverloadedError as error:
                if time.monotonic() + error.retry_after_s >= until:
                    raise
                await asyncio.sleep(error.retry_after_s)

    async def _put(self, entry: _Entry, photos: Sequence[Photo]) -> int:
        """Raises: StoreError."""
        request = entry.task.model_dump_json().encode()
        size = len(request)
        for key, photo in zip(photo_keys(entry.item.task_id, len(photos)), photos, strict=True):
            packed = await asyncio.to_thread(pack_photo, photo)
            size += len(packed)
            await self._results.put(key, packed)
        await self._results.put(request_key(entry.item.task_id), request)
        return size


async def delete_files(results: Results, items: Sequence[BatchItem]) -> None:
    """Delete the files of requests that were not queued. Raises: StoreError."""
    keys = [key for item in items for key in (*photo_keys(item.task_id, item.photos), request_key(item.task_id))]
    for first in range(0, len(keys), DELETED_AT_ONCE):
        await results.delete(keys[first : first + DELETED_AT_ONCE])

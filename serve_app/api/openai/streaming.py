"""An edit as server-sent events: pictures on the way, which are the task's previews, then the finished one."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, nullcontext
from typing import Any, Literal

from deployments.errors import AvatarError
from deployments.types import ImagePreview
from serve_app.api.openai.answers import Look, Usage, base64_of, failure_of, usage_of
from serve_app.api.openai.requests import ImageEditRequest
from serve_app.api.openai_errors import error_body
from serve_app.generation.execution import failure_outcome
from serve_app.generation.service import AvatarService
from serve_app.generation.validation import Caller
from serve_app.schemas.requests import AvatarRequest
from serve_app.tasks.models import Failure, Task, TaskRecord
from serve_app.tasks.previews import Previews

QUALITIES = {"standard": "auto", "hd": "high"}  # words that this API has in requests and not in events


class EditEvent(Look):
    """What both events say: a picture, and how the finished one looks."""

    type: str
    created_at: int  # unix seconds
    quality: str
    b64_json: str


class PartialImage(EditEvent):
    """The picture so far: a small JPEG, whatever the format of the finished one."""

    type: Literal["image_edit.partial_image"] = "image_edit.partial_image"
    partial_image_index: int


class EditCompleted(EditEvent):
    """The finished picture."""

    type: Literal["image_edit.completed"] = "image_edit.completed"
    usage: Usage


class PartialImages:
    """Chooses the previews that are sent: at most `count`, spread over the steps."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._sent = 0
        self._step = 0  # of the last one

    def index_of(self, preview: ImagePreview) -> int | None:
        """The number of the partial image that a preview becomes, from 0; None where it becomes none."""
        is_due = preview.step * (self._count + 1) >= preview.steps * (self._sent + 1)
        if self._sent == self._count or preview.step <= self._step or not is_due:
            return None
        self._sent, self._step = self._sent + 1, preview.step
        return self._sent - 1


class StreamedEdit:
    """The edit of one image, while its client hears of it. `held` keeps the photos."""

    def __init__(
        self,
        service: AvatarService,
        task: Task,
        body: ImageEditRequest,
        request: AvatarRequest,
        caller: Caller,
        held: AsyncExitStack,
    ) -> None:
        self._service = service
        self._task = task
        self._request = request
        self._caller = caller
        self._held = held
        self._partial_images = PartialImages(body.partial_images)
        quality = QUALITIES.get(body.quality, body.quality)
        self._look: dict[str, Any] = {**Look.of(task.request).model_dump(), "quality": quality}

    async def events(self) -> AsyncGenerator[EditEvent | Failure, None]:
        """Partial images, then the finished one or the failure of the task. Who stops iterating cancels the work.

        Raises: what `TaskCreation.create` raises; StoreError.
        """
        changed = asyncio.Event()
        async with self._held, self._previews(changed) as previews:
            making = asyncio.create_task(self._service.creation.create(self._task, self._request, self._caller))
            making.add_done_callback(lambda _done: changed.set())
            try:
                while not making.done():
                    await changed.wait()
                    changed.clear()
                    if not making.done() and (event := self._partial_image(previews.newest.get(0))) is not None:
                        yield event
                record = making.result()
            finally:
                making.cancel()
                await asyncio.gather(making, return_exceptions=True)
        yield failure_of(record) or await self._completed(record)

    def _previews(self, changed: asyncio.Event) -> AbstractAsyncContextManager[Previews]:
        if not self._task.request.previews:
            return nullcontext(Previews(changed))
        return self._service.changes.previews.follow(self._task.task_id, changed)

    def _partial_image(self, preview: ImagePreview | None) -> PartialImage | None:
        index = None if preview is None else self._partial_images.index_of(preview)
        if preview is None or index is None:
            return None
        picture = preview.picture.partition(",")[2]
        return PartialImage(b64_json=picture, created_at=int(time.time()), partial_image_index=index, **self._look)

    async def _completed(self, record: TaskRecord) -> EditCompleted:
        file = await self._service.results.get(record.outcome.avatars[0].key)
        return EditCompleted(
            b64_json=await asyncio.to_thread(base64_of, file),
            created_at=int(record.task.submitted_at),
            usage=usage_of(record.task.request, 1),
            **self._look | Look.of(record.task.request).model_dump(),  # another app may have drawn it
        )


async def encoded(first: EditEvent, rest: AsyncGenerator[EditEvent | Failure, None]) -> AsyncIterator[str]:
    """The events as text. Once one is sent, an error can only be told as an event, too."""
    async with aclosing(rest):
        yield _encode(first)
        try:
            async for event in rest:
                yield _encode(event)
        except AvatarError as error:
            failure = failure_outcome(error).failure
            assert failure is not None
            yield _encode(failure)


def _encode(event: EditEvent | Failure) -> str:
    if isinstance(event, Failure):
        return f"event: error\ndata: {json.dumps(error_body(event.status, event.error, event.error_data))}\n\n"
    return f"event: {event.type}\ndata: {event.model_dump_json()}\n\n"

"""A pipeline without stages."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from deployments.types import Photo
from serve_app.backends.object_store import Results, result_key
from serve_app.pipeline.job import AvatarJob, ImageDone
from serve_app.pipeline.pipeline import JobResult
from serve_app.tasks.models import StoredAvatar
from tests.support.photos import png

PIXELS = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


class Pipeline:
    """Gives the prepared outcomes one after the other, the last one for ever; None waits without end."""

    def __init__(self, results: Results, *outcomes: Any) -> None:
        self.results = results
        self.outcomes = list(outcomes)
        self.jobs: list[AvatarJob] = []
        self.photos: list[Photo] = []
        self.waiting = 0  # jobs whose outcome is None
        self.cancelled = 0
        self.gate = asyncio.Event()

    async def run(self, job: AvatarJob, photos: Sequence[Photo], image_done: ImageDone) -> JobResult:
        self.jobs.append(job)
        self.photos += photos
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        key = result_key(job.task_id, 0, "png")
        await self.results.put(key, png(PIXELS))
        avatar = StoredAvatar(key, key, 7, None, 0, 0, 0, 0)
        await image_done(0, avatar)
        if outcome is None:
            self.waiting += 1
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.waiting -= 1
        return JobResult([avatar], 0.1)

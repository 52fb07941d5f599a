"""The settings of `AvatarWorker`."""

from pydantic import Field

from deployments.config import Config
from serve_app.generation.settings import GenerationSettings


class WorkerSettings(Config):
    """What one worker replica does at once, and how it shuts down."""

    concurrency: int = Field(8, ge=1)  # tasks at once in one replica
    grace_s: float = Field(4, ge=0)  # a replica that shuts down returns tasks to the queue that are not done by then


class AvatarWorkerSettings(GenerationSettings):
    """The settings of a worker replica."""

    worker: WorkerSettings = WorkerSettings()

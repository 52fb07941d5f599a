"""The answers of the API: the envelope and the contents of its `output`."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_app.schemas.receipts import Receipt
from serve_app.schemas.warnings import PhotoWarning

Status = Literal["PENDING", "STARTED", "SUCCESS", "FAILED", "CANCELLED"]


class TimeRequired(BaseModel):
    """Seconds. `startup_time`: waiting for a generator replica to come up; `stages`: the slowest image of each."""

    startup_time: float = 0.0
    runtime: float = 0.0
    stages: dict[str, float] = {}


class Envelope(BaseModel):
    """Every answer, errors too: these eight keys, always all there."""

    time_required: TimeRequired = TimeRequired()
    error: str = Field("", examples=[""], description="A short stable name; empty where there was none.")
    error_data: dict[str, Any] | Literal[""] = Field("", examples=[""])
    input: dict[str, Any] = Field({}, description="The effective parameters, defaults filled in.")
    output: dict[str, Any] = {}
    app_id: str = ""
    task_id: str = ""
    status: Status = "SUCCESS"


class Progress(BaseModel):
    """`output.progress` of an unfinished task."""

    step: int = Field(description="Denoising steps made, the mean of its images: `step / steps` of the work is done.")
    steps: int
    images_done: int
    images: int
    queue_position: int = Field(description="1 is next; 0 is being worked on.")
    eta_s: float | None = Field(None, description="Seconds until it is done, by how fast others were; null: unknown.")
    image_steps: list[int] = Field([], description="Steps made of each image; one that is drawn again starts anew.")
    previews: list[str | None] = Field(
        [],
        description="Only in the events of a task with `previews`: what each image looks like so far, a small picture "
        "as a data URL; null where none has come yet.",
    )


class Attempt(BaseModel):
    """One drawing of an image, kept or not."""

    model_config = ConfigDict(frozen=True)

    seed: int
    face_similarity: float | None


class AvatarOutput(BaseModel):
    """`output` of a finished request; lists have one entry an image."""

    result: list[str | None] = Field(description="URLs of the images; null where one is withheld.")
    low_res_urls: list[str | None] = Field(description="URLs of WebP thumbnails.")
    Has_NSFW_Content: list[bool] = Field(description="The app's safety checker withholds the image.")
    seeds: list[int]
    face_similarity: list[float | None] = Field(description="Cosine, -1..1; null where the image shows no face.")
    attempts: list[list[Attempt]] = Field(description="All that was drawn for each image, by `min_similarity`.")
    receipts: list[Receipt | None] = Field(description="What each image was drawn with; null where it is not known.")
    warnings: list[PhotoWarning] = Field([], description="What to know about the photo; not one entry an image.")


class BatchCounts(BaseModel):
    """How many requests of a batch are in each state."""

    total: int = 0
    waiting: int = Field(0, description="To be queued, or in the queue.")
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


class WebhookDelivery(BaseModel):
    """How a webhook was told; `status` (HTTP) and `error` are those of the last attempt."""

    attempts: int = 0
    delivered_at: float | None = Field(None, description="Unix seconds.")
    given_up: bool = False
    status: int | None = None
    error: str = ""


class BatchView(BaseModel):
    """`output.batch` of an answer about a batch; times are unix seconds."""

    batch_id: str
    state: Literal["open", "running", "finished", "cancelled"] = Field(
        description="open: more requests may be added; running: closed, and some have not ended."
    )
    counts: BatchCounts
    created_at: float
    deadline: float = Field(description="What is not queued by then fails.")
    finished_at: float | None = Field(None, description="When the last of its requests had ended.")
    defaults: dict[str, Any] = {}
    ref_id: str | None = None
    metadata: dict[str, str] = {}
    webhook: WebhookDelivery | None = Field(None, description="null: it has none.")

    @property
    def status(self) -> Status:
        """As tasks have it."""
        statuses: dict[str, Status] = {"open": "PENDING", "running": "STARTED", "finished": "SUCCESS"}
        return statuses.get(self.state, "CANCELLED")


class BatchLine(BaseModel):
    """A line of the results of a batch: a request that ended."""

    index: int = Field(description="Counts the lines from 1; `after` takes the last one that you have.")
    custom_id: str
    envelope: Envelope

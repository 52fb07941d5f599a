"""The settings that the ingress and the worker share."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from deployments.config import AvatarGeneratorConfig, Config
from serve_app.auth.tokens import TokenSettings
from serve_app.backends.object_store import StoreSettings
from serve_app.backends.redis import BrokerSettings
from serve_app.catalog.catalog import LicenseMode
from serve_app.generation.prompt_filter import SafetySettings
from serve_app.photos.decode import PhotoSettings
from serve_app.photos.urls import FetchSettings
from serve_app.provenance.signing import ProvenanceSettings
from serve_app.sandbox.process import SandboxSettings
from serve_app.tasks.models import DEAD_TTL_S

DEFAULT_DATA_DIR = Path("~/.face-avatar")


class AdmissionSettings(Config):
    """What one ingress replica does at once before it answers 503, each in shares by owner (`FairSlots`)."""

    max_images: int = Field(32, ge=8)  # being made; a request counts as many as its batch
    max_queueing: int = Field(32, ge=1)  # requests whose photo is on its way into the queue
    max_inspections: int = Field(16, ge=1)  # pictures of `/faces` and `/verify`
    max_fetches: int = Field(64, ge=1)  # photos that are fetched
    max_repeats: int = Field(32, ge=1)  # requests that wait for the answer to one with the same idempotency key
    max_deadline_s: float = Field(600, gt=0, le=3600)  # of a synchronous request, whatever it names
    retry_after_s: int = Field(5, ge=1)
    cold_start_s: int = Field(120, ge=1)  # assumed for a stage at zero replicas until a cold start was measured
    max_body_bytes_at_once: int = Field(96 * 1024 * 1024, ge=1024)  # of bodies until their photos are decoded
    owner_body_share: float = Field(0.5, gt=0, le=1)  # of these bytes for one owner, and of the bodies being read
    max_loop_lag_s: float = Field(0.5, gt=0)  # while callbacks are later than this, no new work is accepted


class QueueSettings(Config):
    """The limits of the queue, which all ingress replicas and workers share."""

    max_tasks: int = Field(1000, ge=1)  # waiting and running; more are refused with 503
    deadline_s: float = Field(3600, gt=0, le=3600)  # of a queued request that names none
    dead_ttl_s: int = Field(DEAD_TTL_S, ge=60)  # how long a dead letter may be requeued


class BatchSettings(Config):
    """The limits of batches, which all ingress replicas and workers share."""

    max_requests: int = Field(1000, ge=1, le=10_000)  # of one batch
    max_unfinished: int = Field(8, ge=1)  # batches of one owner at once
    max_bytes: int = Field(4 * 1024**3, ge=1024**2)  # of the photos and requests of one batch, as they are stored
    queued_at_once: int = Field(64, ge=1)  # unfinished queued tasks of an owner with which its batches wait
    deadline_s: float = Field(24 * 3600, ge=60, le=7 * 24 * 3600)  # what is not queued so long after its opening fails


class GenerationSettings(BaseModel):
    """What the ingress and the worker need to run tasks; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = DEFAULT_DATA_DIR
    catalogs: tuple[str, ...] = ("embedded",)
    deadline_s: float = Field(120, gt=0)  # of a synchronous request that names none
    license_mode: LicenseMode = "any"  # commercial: apps whose weights forbid commercial use are refused
    require_consent: bool = False  # true: only requests with `"consent": true` are accepted
    result_ttl_s: int = Field(24 * 3600, ge=60)
    broker: BrokerSettings = BrokerSettings()
    store: StoreSettings = StoreSettings()
    admission: AdmissionSettings = AdmissionSettings()
    queue: QueueSettings = QueueSettings()
    batches: BatchSettings = BatchSettings()
    tokens: TokenSettings = TokenSettings()
    fetch: FetchSettings = FetchSettings()
    photo: PhotoSettings = PhotoSettings()
    decoder: SandboxSettings = SandboxSettings()
    provenance: ProvenanceSettings = ProvenanceSettings()
    safety: SafetySettings = SafetySettings()
    generator: AvatarGeneratorConfig = AvatarGeneratorConfig()

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        # Replicas do not share the working directory of the process that started them.
        return path.expanduser().absolute()

"""The settings of the application: one frozen object, read from the arguments in the Serve config file.

What the file leaves out may come from the environment: FACE_AVATAR_DATA_DIR, FACE_AVATAR_FETCH__TIMEOUT_S.
"""

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from deployments.config import AvatarGeneratorConfig, BackgroundRemoverConfig, Config, FaceEmbedderConfig
from serve_app.broker import BrokerSettings
from serve_app.catalog import LicenseMode
from serve_app.confined import ConfinedSettings
from serve_app.fetch import FetchSettings
from serve_app.headers import CorsSettings
from serve_app.photo import PhotoSettings
from serve_app.prompt_terms import SafetySettings
from serve_app.provenance import ProvenanceSettings
from serve_app.storage import StoreSettings
from serve_app.task_models import DEAD_TTL_S
from serve_app.tokens import TokenSettings

DEFAULT_DATA_DIR = Path("~/.face-avatar")
DEFAULT_MODELS_DIR = Path("~/.face-avatar/models")


class AdmissionSettings(Config):
    """What one ingress replica takes on before it answers 503."""

    max_images: int = Field(32, ge=8)  # being made at once; a request counts as many as its batch
    retry_after_s: int = Field(5, ge=1)
    cold_start_s: int = Field(120, ge=1)  # of a stage at zero replicas, until it was seen how long it takes to come up


class QueueSettings(Config):
    max_tasks: int = Field(1000, ge=1)  # waiting and running; what would be more is answered 503
    deadline_s: float = Field(3600, gt=0, le=3600)  # of a queued request that names none
    dead_ttl_s: int = Field(DEAD_TTL_S, ge=60)  # so long a task that was given up may be queued again


class WorkerSettings(Config):
    concurrency: int = Field(8, ge=1)  # tasks at once in one replica
    grace_s: float = Field(4, ge=0)  # what is not done so long after a replica is told to end goes back to the queue


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix="FACE_AVATAR_",
        env_nested_delimiter="__",
    )

    data_dir: Path = DEFAULT_DATA_DIR
    models_dir: Path = DEFAULT_MODELS_DIR  # of `models:NAME`; the same on every node
    catalogs: tuple[str, ...] = ("embedded",)
    public_url: str | None = None  # of the links in answers; without it, that of the request
    max_body_bytes: int = Field(16 * 1024 * 1024, ge=1024)
    deadline_s: float = Field(120, gt=0)  # of a synchronous request that names none
    license_mode: LicenseMode = "any"  # commercial: apps whose weights forbid commercial use are refused
    require_consent: bool = False  # true: only requests with `"consent": true` are taken
    result_ttl_s: int = Field(24 * 3600, ge=60)
    broker: BrokerSettings = BrokerSettings()
    store: StoreSettings = StoreSettings()
    admission: AdmissionSettings = AdmissionSettings()
    queue: QueueSettings = QueueSettings()
    tokens: TokenSettings = TokenSettings()
    cors: CorsSettings = CorsSettings()
    worker: WorkerSettings = WorkerSettings()
    fetch: FetchSettings = FetchSettings()
    photo: PhotoSettings = PhotoSettings()
    decoder: ConfinedSettings = ConfinedSettings()
    provenance: ProvenanceSettings = ProvenanceSettings()
    safety: SafetySettings = SafetySettings()
    face: FaceEmbedderConfig = FaceEmbedderConfig()
    generator: AvatarGeneratorConfig = AvatarGeneratorConfig()
    background: BackgroundRemoverConfig = BackgroundRemoverConfig()

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        # Replicas do not share the working directory of whoever started them.
        return path.expanduser().absolute()

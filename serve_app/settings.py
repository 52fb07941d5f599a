"""The settings of the application: one frozen object from the arguments in the Serve config file.

Missing values come from the environment: FACE_AVATAR_DATA_DIR, FACE_AVATAR_FETCH__TIMEOUT_S.
"""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

from deployments.config import BackgroundRemoverConfig, FaceEmbedderConfig
from serve_app.api.settings import IngressSettings
from serve_app.worker.settings import AvatarWorkerSettings

DEFAULT_MODELS_DIR = Path("~/.face-avatar/models")


class Settings(IngressSettings, AvatarWorkerSettings, BaseSettings):
    """The arguments of `build_app`; an unknown one is an error."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix="FACE_AVATAR_",
        env_nested_delimiter="__",
    )

    models_dir: Path = DEFAULT_MODELS_DIR  # of `models:NAME`; the same on every node
    face: FaceEmbedderConfig = FaceEmbedderConfig()
    background: BackgroundRemoverConfig = BackgroundRemoverConfig()

"""How the stages are set up. Light on purpose: the graph is built in processes that never load a model library.

A model path that starts with `embedded:` names a file of this package; it is resolved where the model is loaded,
so the same settings serve every node.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from deployments.embedded import WEIGHTS

EMBEDDED = "embedded:"


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def model_path(path: str) -> Path:
    """The file or folder that a model path names on this machine."""
    return WEIGHTS / path.removeprefix(EMBEDDED) if path.startswith(EMBEDDED) else Path(path).expanduser()


class FaceModelConfig(Config):
    encoder: str = "embedded:face/encoder.onnx"
    threads: int = Field(1, ge=1)
    min_face_px: int = Field(48, ge=16)


class FaceEmbedderConfig(Config):
    model: FaceModelConfig = FaceModelConfig()
    max_batch_size: int = Field(8, ge=1)
    batch_wait_s: float = Field(0.01, ge=0)


class DiffusionModelConfig(Config):
    """A diffusers folder of the Stable Diffusion family and a FaceID adapter file."""

    path: str = "embedded:diffusion"
    ip_adapter: str = "embedded:diffusion/ip-adapter-faceid.safetensors"
    ip_adapter_scale: float = Field(1.0, ge=0, le=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    threads: int = Field(2, ge=1)


class AvatarGeneratorConfig(Config):
    models: dict[str, DiffusionModelConfig] = {"embedded": DiffusionModelConfig()}
    max_rows: int = Field(4, ge=1)


class MattingModelConfig(Config):
    """A rembg session by its name; `model_path` for the custom ones."""

    session: str = "u2net_custom"
    model_path: str | None = "embedded:matting/u2net.onnx"
    threads: int = Field(1, ge=1)


class BackgroundRemoverConfig(Config):
    model: MattingModelConfig = MattingModelConfig()

"""How the stages are set up. Light on purpose: the graph is built in processes that never load a model library.

A model path that starts with `embedded:` names a file of this package; it is resolved where the model is loaded,
so the same settings serve every node.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from deployments.embedded import WEIGHTS

EMBEDDED = "embedded:"
CPU = ("CPUExecutionProvider",)


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def model_path(path: Path) -> Path:
    """The file or folder that a model path names on this machine."""
    name = str(path)
    return WEIGHTS / name.removeprefix(EMBEDDED) if name.startswith(EMBEDDED) else path.expanduser()


class FaceModelConfig(Config):
    """An ONNX encoder of aligned faces; `providers` as onnxruntime calls them, the first of which must be had."""

    encoder: Path
    threads: int = Field(1, ge=1)
    min_face_px: int = Field(48, ge=1)  # pixels of the photo
    providers: tuple[str, ...] = CPU


class FaceEmbedderConfig(Config):
    model: FaceModelConfig = FaceModelConfig(encoder=Path("embedded:face/encoder.onnx"))
    max_batch_size: int = Field(8, ge=1)
    batch_wait_s: float = Field(0.01, ge=0)


class DiffusionModelConfig(Config):
    """A diffusers folder of the Stable Diffusion family and a FaceID adapter file."""

    path: Path
    ip_adapter: Path
    ip_adapter_scale: float = Field(1.0, ge=0, le=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    threads: int = Field(2, ge=1)


class AvatarGeneratorConfig(Config):
    models: dict[str, DiffusionModelConfig] = {
        "embedded": DiffusionModelConfig(
            path=Path("embedded:diffusion"), ip_adapter=Path("embedded:diffusion/ip-adapter-faceid.safetensors")
        )
    }
    max_rows: int = Field(4, ge=1)


class MattingModelConfig(Config):
    """`session` is what rembg calls an architecture; without `model_path` it looks for, or downloads, its own file."""

    session: str = "u2net_custom"
    model_path: Path | None = None
    threads: int = Field(1, ge=1)
    providers: tuple[str, ...] = CPU


class BackgroundRemoverConfig(Config):
    model: MattingModelConfig = MattingModelConfig(model_path=Path("embedded:matting/u2net.onnx"))

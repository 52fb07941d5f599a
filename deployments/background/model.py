"""Foreground matting: rembg's sessions behind one method."""

import os
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from deployments.common.onnx_session import (
    lost_provider_errors,
    provider_list,
    require_provider,
    require_self_contained,
    session_options,
)
from deployments.config import MattingModelConfig, model_path
from deployments.types import Alpha, Pixels

# rembg imports pymatting, whose numba functions compile for 44 s at their first import in an environment and are never
# called for a mask. numba reads this once, at import: it must be set here, before rembg is imported.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

import rembg
from rembg.sessions import sessions
from rembg.sessions.base import BaseSession

# Without those that send the picture to a remote server, need more than the picture, or return several masks.
ARCHITECTURES: dict[str, type[BaseSession]] = {
    name: session for name, session in sessions.items() if session.is_local() and name not in ("sam", "u2net_cloth_seg")
}


class MattingModel(Protocol):
    """Finds the figure on a picture. Called on several threads at once: implementations must be thread-safe."""

    def alpha(self, pixels: Pixels) -> Alpha:
        """(h, w, 3) -> (h, w): 0 is background, 255 is figure. Raises: DeviceLostError."""
        ...


class RembgModel:
    """A rembg session on a local ONNX file. Thread-safe. Raises: what `open_session` raises."""

    def __init__(self, config: MattingModelConfig) -> None:
        self._session = open_session(config)
        self._providers = config.providers

    def alpha(self, pixels: Pixels) -> Alpha:
        """The mask of rembg's session, in the size of the picture; all 0 where the network's output is one value."""
        # rembg divides by the range of its mask; a mask of one value has none, becomes NaN, and then background.
        # The exponential in its sigmoid overflows for pixels that are certainly background, which correctly gives 0.
        on_device = lost_provider_errors([self._session.inner_session], self._providers)
        with on_device, np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            mask = rembg.remove(Image.fromarray(pixels), session=self._session, only_mask=True)
        return np.asarray(mask.convert("L"), dtype=np.uint8)


def open_session(config: MattingModelConfig) -> BaseSession:
    """A rembg session on the given file and on the first of `providers`; nothing is downloaded.

    Raises: ValueError for an unknown or unsupported session, and for a model in several files;
    FileNotFoundError; RuntimeError where the provider is unavailable.
    """
    if config.session not in ARCHITECTURES:
        raise ValueError(f"there is no session {config.session!r}, but {', '.join(sorted(ARCHITECTURES))}")
    path = model_path(config.model_path)
    if not path.is_file():
        raise FileNotFoundError(path)
    require_self_contained(path)
    providers = provider_list(config.providers, config.gpu_memory_mb)
    session = _reading(path, ARCHITECTURES[config.session])(
        config.session, session_options(config.threads), providers=providers, model_path=str(path)
    )
    require_provider(session.inner_session, config.providers)
    return session


def _reading(path: Path, architecture: type[BaseSession]) -> type[BaseSession]:
    """The architecture on the given file: rembg itself only loads files from its own home, or downloads them."""

    class OnOurFile(architecture):  # type: ignore[misc]  # rembg has no types
        @classmethod
        def download_models(cls, *args: object, **kwargs: object) -> str:
            return str(path)

    return OnOurFile

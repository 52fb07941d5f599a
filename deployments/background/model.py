"""Which pixels belong to the figure: rembg's sessions behind one method."""

import os
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from deployments.config import MattingModelConfig, model_path
from deployments.types import Pixels

# rembg imports pymatting, whose numba functions compile for 44 s at their first import in an environment and are never
# called for a mask. numba reads this once, at import: it must stand here, before rembg, for all who use this module.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

import onnxruntime
import rembg
from rembg.sessions import sessions
from rembg.sessions.base import BaseSession

Alpha = npt.NDArray[np.uint8]


class MattingModel(Protocol):
    def alpha(self, pixels: Pixels) -> Alpha:
        """(h, w, 3) -> (h, w): 0 is background, 255 is figure."""
        ...


class RembgModel:
    def __init__(self, config: MattingModelConfig) -> None:
        self._session = open_session(config)

    def alpha(self, pixels: Pixels) -> Alpha:
        # rembg divides by the range of its mask; a mask of one value has none, becomes NaN, and then background.
        with np.errstate(divide="ignore", invalid="ignore"):
            mask = rembg.remove(Image.fromarray(pixels), session=self._session, only_mask=True)
        return np.asarray(mask.convert("L"), dtype=np.uint8)


def open_session(config: MattingModelConfig) -> BaseSession:
    """A rembg session on the given file, wherever it lies, on the first of `providers` or not at all."""
    if config.session not in sessions:
        raise ValueError(f"rembg has no session {config.session!r}; it has {', '.join(sorted(sessions))}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = config.threads
    options.inter_op_num_threads = 1
    providers = list(config.providers)
    if config.model_path is None:
        session = sessions[config.session](config.session, options, providers=providers)
    else:
        path = model_path(config.model_path)
        architecture = _reading(path, sessions[config.session])
        session = architecture(config.session, options, providers=providers, model_path=str(path))
    active = session.inner_session.get_providers()
    if active[0] != config.providers[0]:
        raise RuntimeError(f"{config.providers[0]} was asked for, but onnxruntime runs on {', '.join(active)}")
    return session


def _reading(path: Path, architecture: type[BaseSession]) -> type[BaseSession]:
    """The architecture on a file of ours: rembg takes only what lies under its own home, or downloads."""
    if not path.is_file():
        raise FileNotFoundError(path)

    class OnOurFile(architecture):  # type: ignore[misc]  # rembg has no types
        @classmethod
        def download_models(cls, *args: object, **kwargs: object) -> str:
            return str(path)

    return OnOurFile

"""The service with devices that break when they are told to: an application for a Serve config file.

What fails is the layer below this project: torch's operations on the engine's thread, onnxruntime's native session.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import onnxruntime
from ray import serve

from deployments.background.deployment import BackgroundRemover as RealRemover
from deployments.diffusion.deployment import AvatarGenerator, LoadedModel
from deployments.diffusion.engine import hang_detector
from deployments.diffusion.model.denoiser import FaceDiffusionModel, Sample
from deployments.diffusion.model.timeline import TimedStep
from deployments.face.deployment import FaceEmbedder as RealEmbedder
from serve_app import app
from serve_app.settings import Settings
from tests.support.lost_devices import LostOnnxDevice, LostTorchDevice

FAULTS = "FACE_AVATAR_TEST_FAULTS"  # a folder; a file in it is a fault that the first that finds it has
GRACE_S, FIRST_GRACE_S = 2.0, 20.0  # rows that come at once may make a batch of a size that was not measured yet


def tell(folder: Path, fault: str) -> None:
    (folder / fault).touch()


def is_told(fault: str) -> bool:
    """Once for each time that it was told."""
    try:
        (Path(os.environ[FAULTS]) / fault).unlink()
    except FileNotFoundError:
        return False
    return True


class BreakingModel(FaceDiffusionModel):
    def step(self, samples: Sequence[Sample]) -> TimedStep:
        if is_told("sticky"):
            LostTorchDevice().__enter__()
        if is_told("hang"):
            threading.Event().wait()
        return super().step(samples)


class BreakingGenerator(AvatarGenerator):
    async def __init__(self, *settings: Any) -> None:  # type: ignore[misc]
        hang_detector.GRACE_S, hang_detector.FIRST_GRACE_S = GRACE_S, FIRST_GRACE_S
        await super().__init__(*settings)

    def _load(self, name: str) -> LoadedModel:
        loaded = super()._load(name)
        loaded.denoiser.__class__ = BreakingModel
        return loaded


class BreakingSession(onnxruntime.InferenceSession):  # type: ignore[misc]  # it has no types
    fault = ""

    def run(self, *arguments: Any, **named: Any) -> Any:
        if is_told(self.fault):
            self._sess = LostOnnxDevice(self._sess)
        return super().run(*arguments, **named)


class BreakingFaceSession(BreakingSession):
    fault = "embedder"


class BreakingMattingSession(BreakingSession):
    fault = "remover"


class FaceEmbedder(RealEmbedder):
    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        model: Any = self._models[None]
        model._encoder.__class__ = BreakingFaceSession


class BackgroundRemover(RealRemover):
    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        model: Any = self._model
        model._session.inner_session.__class__ = BreakingMattingSession


def build_app(settings: Settings) -> serve.Application:
    """As `serve_app.app:build_app`."""
    with patch.object(app, "FaceEmbedder", FaceEmbedder), patch.object(app, "BackgroundRemover", BackgroundRemover):
        return app.graph(settings, BreakingGenerator)

"""Networks that tell people apart, as ONNX files: AuraFace and others in ArcFace's format, and OpenCV's SFace."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
from insightface.model_zoo import get_model
from insightface.model_zoo.arcface_onnx import ArcFaceONNX

from deployments.common.onnx_session import (
    provider_list,
    require_provider,
    require_self_contained,
    session_options,
)
from deployments.config import YuNetFaceModelConfig, model_path
from deployments.face.similarity import normalised
from deployments.types import Pixels, Vector

CROP_SIZE = 112  # pixels of a side of an aligned face, which is in the same place for both kinds


@dataclass(frozen=True, slots=True)
class Recogniser:
    """A recogniser on its session. `run` takes BGR crops of 112 x 112 and gives (n, length), of any length."""

    path: Path
    session: onnxruntime.InferenceSession
    run: Callable[[list[Pixels]], npt.NDArray[np.float32]]

    def encode(self, crops: Sequence[Pixels]) -> Vector:
        """One or more aligned BGR crops -> (n, length), each vector of length 1."""
        is_one_at_a_time = isinstance(self.session.get_inputs()[0].shape[0], int)
        batches = [[crop] for crop in crops] if is_one_at_a_time else [list(crops)]
        return normalised(np.concatenate([self.run(batch) for batch in batches]))


def open_recogniser(config: YuNetFaceModelConfig) -> Recogniser:
    """The recogniser of the config, on the first of its providers.

    Raises: OSError; ValueError where the file is of another kind; RuntimeError where the provider is unavailable.
    """
    path = model_path(config.recogniser.file)
    _require_one_picture_to_one_vector(path)
    recogniser = _arcface(path, config) if config.recogniser.kind == "arcface" else _sface(path, config)
    require_provider(recogniser.session, config.providers)
    black = np.zeros((CROP_SIZE, CROP_SIZE, 3), np.uint8)
    given, wanted = recogniser.encode([black, black]).shape, (2, config.vector_length)
    if given != wanted:
        raise ValueError(f"{path} gives {given} for two faces, not {wanted} as {config.recogniser.kind} does")
    return recogniser


def _arcface(path: Path, config: YuNetFaceModelConfig) -> Recogniser:
    """By insightface, which knows from the graph whether it normalises its input by itself."""
    providers, options = provider_list(config.providers, config.gpu_memory_mb), session_options(config.threads)
    model = get_model(str(path), providers=providers, sess_options=options)
    if not isinstance(model, ArcFaceONNX):  # None, or one of insightface's other kinds
        raise ValueError(f"{path} is no recogniser in the format of ArcFace")
    return Recogniser(path, model.session, model.get_feat)


def _sface(path: Path, config: YuNetFaceModelConfig) -> Recogniser:
    """As OpenCV's `FaceRecognizerSF` runs it: RGB from 0 to 255."""
    providers, options = provider_list(config.providers, config.gpu_memory_mb), session_options(config.threads)
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    name = session.get_inputs()[0].name

    def run(crops: list[Pixels]) -> npt.NDArray[np.float32]:
        (vectors,) = session.run(None, {name: cv2.dnn.blobFromImages(crops, swapRB=True)})
        return np.asarray(vectors, dtype=np.float32)

    return Recogniser(path, session, run)


def _require_one_picture_to_one_vector(path: Path) -> None:
    """Raises: ValueError; OSError. insightface guesses the kind of a model from its shapes, or fails on them."""
    graph = require_self_contained(path).graph
    weights = {tensor.name for tensor in graph.initializer}  # old files list them among the inputs
    shapes = [
        [side.dim_value or None for side in value.type.tensor_type.shape.dim]
        for value in graph.input
        if value.name not in weights
    ]
    sizes = [shape[1:] for shape in shapes]
    if len(graph.output) != 1 or sizes != [[3, CROP_SIZE, CROP_SIZE]] or shapes[0][0] not in (None, 1):
        raise ValueError(
            f"{path} is no recogniser of faces: it has {len(graph.output)} outputs for inputs of {shapes},"
            f" where one of [n, 3, {CROP_SIZE}, {CROP_SIZE}] gives one"
        )

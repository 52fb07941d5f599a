"""InsightFace: an SCRFD detector and an ArcFace recogniser from a folder of ONNX files, run by insightface."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from insightface.app import FaceAnalysis

from deployments.common.checksums import sha256_by_name
from deployments.common.onnx_session import (
    provider_list,
    require_provider,
    require_self_contained,
    session_options,
)
from deployments.config import FACE_VECTOR, InsightFaceModelConfig, model_path
from deployments.face.aligned import AlignedFaceModel
from deployments.face.detection import Detection
from deployments.face.similarity import normalised
from deployments.types import Pixels, Vector

# Pixels of a side. SCRFD detects no face as large as its input: a portrait filled by the face is missed at 640 and
# found at 128. insightface's own default also merges the detections of both sizes.
CLOSE_UP_SIZE = 128


class InsightFaceModel(AlignedFaceModel):
    """The models of a pack, run by insightface."""

    def __init__(self, config: InsightFaceModelConfig) -> None:
        analysis = open_pack(config)
        self._detector = analysis.models["detection"]
        self._recogniser = analysis.models["recognition"]
        files = [Path(model.model_file) for model in (self._detector, self._recogniser)]
        super().__init__(
            [self._detector.session, self._recogniser.session],
            config.providers,
            crop_size=self._recogniser.input_size[0],
            min_face_px=config.min_face_px,
            weights=sha256_by_name((f"face/{file.name}", file) for file in files),
        )
        with self._on_device():
            self._warm_up()

    def _find_faces(self, picture: Pixels) -> list[Detection]:
        if max(picture.shape[:2]) > CLOSE_UP_SIZE * min(picture.shape[:2]):
            return []  # scaled down it would be thinner than a pixel, which insightface fails on
        boxes, landmarks = self._detector.detect(picture)
        return [
            Detection((float(x0), float(y0), float(x1), float(y1)), float(score), points)
            for (x0, y0, x1, y1, score), points in zip(boxes, landmarks, strict=True)
        ]

    def _encode(self, crops: Sequence[Pixels]) -> Vector:
        return normalised(self._recogniser.get_feat(list(crops)))

    def _warm_up(self) -> None:
        """Run each model once at load: errors show now, and the first request does not pay for it.

        Raises: ValueError where the detector gives no landmarks, or the recogniser not (2, 512) for two faces.
        """
        width, height = self._recogniser.input_size
        black = np.zeros((height, width, 3), dtype=np.uint8)
        if not self._detector.use_kps:
            raise ValueError(f"{self._detector.model_file} gives no landmarks, by which faces are aligned")
        self._detector.detect(black)
        given = self._recogniser.get_feat([black, black]).shape
        if given != (2, FACE_VECTOR):
            raise ValueError(f"{self._recogniser.model_file} gives {given} for two faces, not {(2, FACE_VECTOR)}")


def open_pack(config: InsightFaceModelConfig) -> FaceAnalysis:
    """The detector and the recogniser of a pack, both on the first of `providers`.

    Raises: FileNotFoundError; ValueError where a file or the pack is incomplete; RuntimeError without the provider.
    """
    pack = model_path(config.pack)
    files = sorted(pack.rglob("*.onnx"))
    if not files:  # insightface would download a pack of that name
        raise FileNotFoundError(f"{pack} is no folder with ONNX files")
    for file in files:
        require_self_contained(file)
    analysis = _analysis(pack, config)
    for model in analysis.models.values():
        require_provider(model.session, config.providers)
    size = config.detection_size
    looks = [(side, side) for side in (CLOSE_UP_SIZE, size)]
    analysis.prepare(ctx_id=0, det_thresh=config.detection_threshold, det_size=looks)
    fixed = analysis.det_model.static_input_size
    if fixed not in (None, (size, size)):
        raise ValueError(f"{analysis.det_model.model_file} takes pictures of {fixed} only, not of {(size, size)}")
    return analysis


def _analysis(pack: Path, config: InsightFaceModelConfig) -> FaceAnalysis:
    tasks = {"detection", "recognition"}
    try:
        analysis = FaceAnalysis(
            str(pack),
            allowed_modules=list(tasks),
            providers=provider_list(config.providers, config.gpu_memory_mb),
            sess_options=session_options(config.threads),
            # Else the detector opens two more sessions, each with an arena of its own.
            static_shape_sessions=False,
        )
    except AssertionError as error:  # insightface raises nothing else without a detector
        raise ValueError(f"{pack} is no pack with a face detector") from error
    if missing := tasks - analysis.models.keys():
        raise ValueError(f"{pack} has no model for {', '.join(missing)}")
    return analysis

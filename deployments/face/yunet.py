"""YuNet (Wu et al. 2023), OpenCV's face detector, run by onnxruntime.

OpenCV's own `FaceDetectorYN` finds faces of about 10 to 300 pixels. So a photo is looked at twice: as large as the
input holds it, and small, for a face that fills it.
"""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from deployments.common.onnx_session import (
    provider_list,
    require_provider,
    require_self_contained,
    session_options,
)
from deployments.config import YuNetFaceModelConfig, model_path
from deployments.face.detection import Detection
from deployments.types import Pixels

SIDE = 640  # pixels of the input, which the published file fixes
CLOSE_UP_SIDE = 256  # pixels of the longer side of a photo at the second look
STRIDES = (8, 16, 32)
WIDTHS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}  # of the outputs of each stride, in numbers a place
SAME_FACE = 0.3  # intersection over union of two boxes from which on the surer one is kept, as in OpenCV

Maps = Mapping[str, npt.NDArray[np.float32]]
"""The outputs by name: `cls_8` is (1, places, 1)."""

Numbers = npt.NDArray[np.float32]


class YuNetDetector:
    """Finds faces with their landmarks. Pictures are BGR."""

    def __init__(self, config: YuNetFaceModelConfig) -> None:
        """Raises: OSError; ValueError where the file is no YuNet; RuntimeError where the provider is unavailable."""
        self.path = model_path(config.detector)
        require_self_contained(self.path)
        self.session = onnxruntime.InferenceSession(
            str(self.path),
            session_options(config.threads),
            providers=provider_list(config.providers, config.gpu_memory_mb),
        )
        require_provider(self.session, config.providers)
        self._input = _require_yunet(self.session, self.path)
        self._threshold = config.detection_threshold

    def find_faces(self, picture: Pixels) -> list[Detection]:
        """The faces of an (h, w, 3) picture; landmarks begin with the eye on its left, the subject's right one."""
        longer = max(picture.shape[:2])
        scales = {min(1.0, side / longer) for side in (SIDE, CLOSE_UP_SIDE)}
        return _distinct([face for scale in sorted(scales, reverse=True) for face in self._look(picture, scale)])

    def _look(self, picture: Pixels, scale: float) -> list[Detection]:
        height, width = picture.shape[:2]
        size = max(1, round(width * scale)), max(1, round(height * scale))
        shrunk = picture if size == (width, height) else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        canvas = np.zeros((SIDE, SIDE, 3), np.float32)
        canvas[: size[1], : size[0]] = shrunk
        names = [f"{kind}_{stride}" for kind in WIDTHS for stride in STRIDES]
        maps = self.session.run(names, {self._input: canvas.transpose(2, 0, 1)[None]})
        boxes, scores, landmarks = decode(dict(zip(names, maps, strict=True)), self._threshold)
        per_pixel = np.array([width / size[0], height / size[1]], np.float32)  # of the photo
        return [
            Detection((float(x0), float(y0), float(x1), float(y1)), float(score), points)
            for (x0, y0, x1, y1), score, points in zip(
                boxes * np.tile(per_pixel, 2), scores, landmarks * per_pixel, strict=True
            )
        ]


def decode(maps: Maps, threshold: float) -> tuple[Numbers, Numbers, Numbers]:
    """Boxes (n, 4), scores (n,) and landmarks (n, 5, 2) in pixels of the input, as `FaceDetectorYN` of OpenCV 5 does.

    Right and left eye of the subject, nose, right and left corner of the mouth.
    """
    found = [_decode_stride(maps, stride, threshold) for stride in STRIDES]
    boxes, scores, landmarks = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return boxes, scores, landmarks


def _decode_stride(maps: Maps, stride: int, threshold: float) -> tuple[Numbers, Numbers, Numbers]:
    cells = SIDE // stride
    cls, obj, bbox, kps = (maps[f"{kind}_{stride}"].reshape(cells**2, width) for kind, width in WIDTHS.items())
    scores = np.sqrt(np.clip(cls, 0, 1) * np.clip(obj, 0, 1))[:, 0]
    sure = np.flatnonzero(scores >= threshold)
    places = np.stack([sure % cells, sure // cells], axis=1).astype(np.float32)  # column, row
    centres = (places + bbox[sure, :2]) * stride
    halves = np.exp(bbox[sure, 2:]) * stride / 2
    landmarks = (places[:, None] + kps[sure].reshape(-1, 5, 2)) * stride
    return np.concatenate([centres - halves, centres + halves], axis=1), scores[sure], landmarks


def _distinct(faces: list[Detection]) -> list[Detection]:
    """The surest of each group of boxes that overlap."""
    if not faces:
        return []
    corners = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in (face.box for face in faces)]
    kept = cv2.dnn.NMSBoxes(corners, [face.score for face in faces], 0.0, SAME_FACE)
    return [faces[index] for index in np.ravel(kept)]


def _require_yunet(session: onnxruntime.InferenceSession, path: Path) -> str:
    """The name of the input. Raises: ValueError where the model is no YuNet for pictures of 640 x 640."""
    places = {f"{kind}_{stride}": (SIDE // stride) ** 2 * width for kind, width in WIDTHS.items() for stride in STRIDES}
    if lacking := places.keys() - {output.name for output in session.get_outputs()}:
        raise ValueError(f"{path} is no YuNet detector: it does not give {', '.join(sorted(lacking))}")
    (source,) = session.get_inputs()
    wanted = (1, 3, SIDE, SIDE)
    if len(source.shape) != 4 or any(
        isinstance(is_there, int) and is_there != side for is_there, side in zip(source.shape, wanted, strict=True)
    ):
        raise ValueError(f"{path} takes pictures of {source.shape}, not of {list(wanted)}")
    given = session.run(list(places), {source.name: np.zeros(wanted, np.float32)})
    if wrong := [name for name, map_ in zip(places, given, strict=True) if map_.size != places[name]]:
        raise ValueError(f"{path} is no YuNet detector: {', '.join(wrong)} are not as large as its strides say")
    name: str = source.name
    return name

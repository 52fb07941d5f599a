"""Faces by models that may be used commercially: YuNet finds them, AuraFace or SFace tells them apart."""

from collections.abc import Sequence

from deployments.common.checksums import sha256_by_name
from deployments.config import YuNetFaceModelConfig
from deployments.face.aligned import AlignedFaceModel
from deployments.face.detection import Detection
from deployments.face.recogniser import CROP_SIZE, open_recogniser
from deployments.face.yunet import YuNetDetector
from deployments.types import Pixels, Vector


class YuNetFaceModel(AlignedFaceModel):
    """A YuNet detector and a recogniser. Both ran once when this is constructed: the first request does not wait."""

    def __init__(self, config: YuNetFaceModelConfig) -> None:
        """Raises: what `YuNetDetector` and `open_recogniser` raise."""
        self._detector = YuNetDetector(config)
        self._recogniser = open_recogniser(config)
        super().__init__(
            [self._detector.session, self._recogniser.session],
            config.providers,
            crop_size=CROP_SIZE,
            min_face_px=config.min_face_px,
            weights=sha256_by_name(
                (f"face/{file.name}", file) for file in (self._detector.path, self._recogniser.path)
            ),
        )

    def _find_faces(self, picture: Pixels) -> list[Detection]:
        return self._detector.find_faces(picture)

    def _encode(self, crops: Sequence[Pixels]) -> Vector:
        return self._recogniser.encode(crops)

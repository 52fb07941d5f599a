"""YuNet with AuraFace or SFace, on small models in the published formats, against OpenCV's own classes for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from insightface.utils.face_align import norm_crop

from deployments.config import FaceEmbedderConfig, InsightFaceModelConfig, YuNetFaceModelConfig
from deployments.errors import NoFaceError
from deployments.face import yunet
from deployments.face.insightface import InsightFaceModel
from deployments.face.model import load_face_model
from deployments.face.recogniser import open_recogniser
from deployments.face.similarity import face_similarity
from deployments.face.yunet_model import YuNetFaceModel
from deployments.types import FaceEmbedding, Photo, Pixels
from tests.support import onnx_models, yunet_models
from tests.support.onnx_models import marker, photo_of, write_insightface_pack
from tests.support.yunet_models import AURAFACE, DETECTOR, SFACE, write_open_face

# insightface aligns with a method that scikit-image has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")

SOMEONE = photo_of((marker(120, 1), 90, 60))
SOMEONE_ELSE = photo_of((marker(200, 2), 310, 290), width=700, height=500)
NOBODY = photo_of()


def config(folder: Path, recogniser: str = "arcface", **settings: Any) -> YuNetFaceModelConfig:
    return YuNetFaceModelConfig.model_validate(
        {
            "kind": "yunet",
            "detector": folder / DETECTOR,
            "recogniser": {"kind": recogniser, "file": folder / (AURAFACE if recogniser == "arcface" else SFACE)},
            **settings,
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_open_face(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> YuNetFaceModel:
    return YuNetFaceModel(config(folder))


def bgr(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels[..., ::-1])


def embedded(model: YuNetFaceModel | InsightFaceModel, *photos: Pixels) -> list[FaceEmbedding]:
    found = model.embed([Photo(pixels) for pixels in photos])
    faces = [face for face in found if isinstance(face, FaceEmbedding)]
    assert len(faces) == len(photos), found
    return faces


def refused(model: YuNetFaceModel, pixels: Pixels) -> NoFaceError:
    (error,) = model.embed([Photo(pixels)])
    assert isinstance(error, NoFaceError)
    return error


def test_faces_are_those_that_opencv_finds_with_the_same_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yunet, "CLOSE_UP_SIDE", yunet.SIDE)  # one look, as OpenCV has
    crowd = photo_of((marker(37, 1), 3, 9), (marker(200, 2, red=220), 400, 380), (marker(111, 3), 90, 60))
    opencv = cv2.FaceDetectorYN.create(str(folder / DETECTOR), "", (640, 640), score_threshold=0.6)
    _, theirs = opencv.detect(bgr(crowd))
    ours = yunet.YuNetDetector(config(folder)).find_faces(bgr(crowd))
    assert len(ours) == len(theirs) == 3
    for face, row in zip(ours, theirs, strict=True):  # both have the surest first
        left, top, width, height = row[:4]
        assert face.box == pytest.approx((left, top, left + width, top + height), abs=1e-3)
        assert face.landmarks is not None
        np.testing.assert_allclose(face.landmarks, row[4:14].reshape(5, 2), atol=1e-3)
        assert face.score == pytest.approx(row[14], abs=1e-6)


def test_a_score_is_the_root_of_class_times_objectness(model: YuNetFaceModel) -> None:
    (face,) = embedded(model, photo_of((np.full((120, 120, 3), (255, 20, 20), np.uint8), 90, 60)))
    assert face.score == pytest.approx(np.sqrt(235 / 255 * yunet_models.OBJECTNESS), abs=1e-5)


def test_box_and_landmarks_are_in_pixels_of_a_photo_that_was_scaled_down(model: YuNetFaceModel) -> None:
    large = photo_of((marker(300, 1), 900, 200), width=1536, height=1000)
    (face,) = embedded(model, large)
    assert face.box == pytest.approx((900, 200, 1200, 500), abs=8)
    assert face.landmarks is not None
    np.testing.assert_allclose(face.landmarks, onnx_models.LANDMARKS * 300 + (900, 200), atol=8)


def test_landmarks_begin_with_the_eye_that_alignment_puts_on_the_left(folder: Path, model: YuNetFaceModel) -> None:
    """A marker's aligned crop is the marker: eyes or corners of the mouth in the other order would turn it over."""
    (face,) = embedded(model, SOMEONE)
    assert face.landmarks is not None
    crop = norm_crop(bgr(SOMEONE), face.landmarks, image_size=112)
    assert np.abs(crop.astype(int) - bgr(marker(112, 1)).astype(int)).mean() < 3
    swapped = norm_crop(bgr(SOMEONE), face.landmarks[[1, 0, 2, 4, 3]], image_size=112)
    assert np.abs(swapped.astype(int) - bgr(marker(112, 1)).astype(int)).mean() > 10


def test_auraface_gives_what_insightface_gives_with_the_same_recogniser(
    folder: Path, model: YuNetFaceModel, tmp_path: Path
) -> None:
    write_insightface_pack(tmp_path)
    pack = InsightFaceModel(InsightFaceModelConfig(kind="insightface", pack=tmp_path))
    for ours, theirs in zip(embedded(model, SOMEONE, SOMEONE_ELSE), embedded(pack, SOMEONE, SOMEONE_ELSE), strict=True):
        assert (ours.vector.shape, ours.vector.dtype) == ((512,), np.float32)
        assert np.linalg.norm(ours.vector) == pytest.approx(1, abs=1e-6)
        assert face_similarity(ours, theirs) > 0.99


def test_sface_gives_what_opencv_gives_with_the_same_file(folder: Path) -> None:
    first, second = embedded(YuNetFaceModel(config(folder, "sface")), SOMEONE, SOMEONE_ELSE)
    opencv = cv2.FaceRecognizerSF.create(str(folder / SFACE), "")
    for face, photo in ((first, SOMEONE), (second, SOMEONE_ELSE)):
        assert face.landmarks is not None
        row = np.concatenate([np.zeros(4, np.float32), face.landmarks.ravel(), np.zeros(1, np.float32)])
        theirs = opencv.feature(opencv.alignCrop(bgr(photo), row[None]))
        assert face.vector.shape == (128,)
        np.testing.assert_allclose(face.vector, theirs[0] / np.linalg.norm(theirs), atol=0.02)


@pytest.mark.parametrize("recogniser", ["arcface", "sface"])
def test_the_same_person_is_alike_elsewhere_and_at_another_size_and_another_person_is_not(
    folder: Path, recogniser: str
) -> None:
    model = YuNetFaceModel(config(folder, recogniser))
    here, there, other = embedded(model, SOMEONE, photo_of((marker(180, 1), 400, 300)), SOMEONE_ELSE)
    assert face_similarity(here, there) > 0.98
    assert face_similarity(here, other) < 0.8


@pytest.mark.parametrize("recogniser", ["arcface", "sface"])
def test_each_photo_of_a_batch_gets_its_own_face_with_faceless_ones_among_them(folder: Path, recogniser: str) -> None:
    model = YuNetFaceModel(config(folder, recogniser))
    photos = [NOBODY, SOMEONE, SOMEONE_ELSE, NOBODY, photo_of((marker(90, 3), 400, 20)), SOMEONE]
    found = model.embed([Photo(pixels) for pixels in photos])
    assert [isinstance(face, NoFaceError) for face in found] == [True, False, False, True, False, False]
    for together, pixels in zip(found, photos, strict=True):
        (alone,) = model.embed([Photo(pixels)])
        if isinstance(together, FaceEmbedding) and isinstance(alone, FaceEmbedding):
            assert together.box == alone.box
            np.testing.assert_allclose(together.vector, alone.vector, atol=1e-6)
    assert model.embed([]) == []


def test_an_auraface_file_that_takes_one_face_at_a_time_serves_too(model: YuNetFaceModel, tmp_path: Path) -> None:
    write_open_face(tmp_path)
    onnx.save(onnx_models.recogniser(batch=1), tmp_path / AURAFACE)
    one_by_one = YuNetFaceModel(config(tmp_path))
    for face, expected in zip(
        embedded(one_by_one, SOMEONE, SOMEONE_ELSE), embedded(model, SOMEONE, SOMEONE_ELSE), strict=True
    ):
        np.testing.assert_allclose(face.vector, expected.vector, atol=1e-6)


def test_a_face_that_fills_the_photo_is_found_at_the_second_look(
    model: YuNetFaceModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close_up = marker(500, 1)
    (face,) = embedded(model, close_up)
    assert face.box == pytest.approx((0, 0, 500, 500), abs=8)
    monkeypatch.setattr(yunet, "CLOSE_UP_SIDE", yunet.SIDE)
    assert refused(YuNetFaceModel(config(folder)), close_up).data["faces_found"] == 0


def test_a_face_that_both_looks_find_is_one_face(model: YuNetFaceModel) -> None:
    assert len(model.inspect(Photo(SOMEONE)).faces) == 1


def test_the_largest_of_several_faces_wins_over_surer_and_more_central_ones(model: YuNetFaceModel) -> None:
    alone = photo_of((marker(160, 1, red=200), 470, 470))
    crowd = photo_of((marker(80, 2), 0, 10), (marker(160, 1, red=200), 470, 470), (marker(120, 3), 260, 260))
    (face,), (expected,) = embedded(model, crowd), embedded(model, alone)
    found = model.inspect(Photo(crowd))
    assert len(found.faces) == 3
    assert face.score < max(other.score for other in found.faces)
    assert (face.box, found.faces[0].box) == (expected.box, expected.box)
    np.testing.assert_allclose(face.vector, expected.vector, atol=1e-6)


def test_the_detector_is_given_bgr(model: YuNetFaceModel) -> None:
    """It knows red markers. Given RGB where it expects BGR, it would know the blue one instead."""
    assert embedded(model, SOMEONE)
    assert refused(model, bgr(SOMEONE)).data["message"] == "no face found"


def test_a_face_below_the_detection_threshold_is_none(folder: Path) -> None:
    pale = photo_of((marker(120, 1, red=190), 90, 60))
    assert embedded(YuNetFaceModel(config(folder, detection_threshold=0.6)), pale)
    assert refused(YuNetFaceModel(config(folder, detection_threshold=0.9)), pale).data["faces_found"] == 0


def test_a_photo_without_a_usable_face_is_told_what_would_be_accepted(model: YuNetFaceModel, folder: Path) -> None:
    data = refused(model, NOBODY).data
    assert (data["message"], data["faces_found"], data["accepted"]["min_face_px"]) == ("no face found", 0, 48)
    assert model.inspect(Photo(NOBODY)).refusal == "no_face"
    two = photo_of((marker(60, 1), 10, 10), (marker(100, 2), 300, 300))
    strict = YuNetFaceModel(config(folder, min_face_px=104))
    data = refused(strict, two).data
    assert (data["message"], data["faces_found"], data["largest_face_px"]) == ("face too small", 2, 100)
    assert strict.inspect(Photo(two)).refusal == "face_too_small"
    assert model.inspect(Photo(two)).refusal is None


def test_a_sharp_face_is_told_from_a_blurred_one(model: YuNetFaceModel) -> None:
    blurred = cv2.GaussianBlur(SOMEONE, (0, 0), 4)
    (sharp,), (soft,) = (model.inspect(Photo(pixels)).faces for pixels in (SOMEONE, blurred))
    assert sharp.sharpness > 2 * soft.sharpness


@pytest.mark.parametrize("shape", [(3, 2000), (2000, 3), (1, 1), (8, 1024), (1, 1536)])
def test_a_photo_of_any_shape_does_not_fail_its_neighbours(model: YuNetFaceModel, shape: tuple[int, int]) -> None:
    odd = np.full((*shape, 3), 128, dtype=np.uint8)
    nobody, someone = model.embed([Photo(odd), Photo(SOMEONE)])
    assert isinstance(nobody, NoFaceError)
    assert isinstance(someone, FaceEmbedding)


def test_receipts_name_both_files(model: YuNetFaceModel) -> None:
    (face,) = embedded(model, SOMEONE)
    assert sorted(face.weights) == [f"face/{DETECTOR}", f"face/{AURAFACE}"]


def test_both_sessions_have_the_threads_and_the_provider_of_the_config(folder: Path) -> None:
    model = YuNetFaceModel(config(folder, threads=2))
    for session in (model._detector.session, model._recogniser.session):
        assert session.get_session_options().intra_op_num_threads == 2
        assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.filterwarnings("ignore:.*CUDAExecutionProvider")
def test_a_gpu_that_is_not_there_is_an_error_and_not_a_slow_model(folder: Path) -> None:
    wanted = config(folder, providers=("CUDAExecutionProvider", "CPUExecutionProvider"), gpu_memory_mb=512)
    with pytest.raises(RuntimeError, match="CUDAExecutionProvider was asked for"):
        YuNetFaceModel(wanted)
    for kind in ("arcface", "sface"):
        alone = config(folder, kind, providers=wanted.providers)
        with pytest.raises(RuntimeError, match="CUDAExecutionProvider was asked for"):
            open_recogniser(alone)


def test_the_detector_with_sides_of_any_length_serves_too(tmp_path: Path) -> None:
    write_open_face(tmp_path)
    onnx.save(yunet_models.yunet("side"), tmp_path / DETECTOR)
    assert embedded(YuNetFaceModel(config(tmp_path)), SOMEONE)


def scrfd_as_detector(folder: Path) -> None:
    onnx.save(onnx_models.detector(), folder / DETECTOR)


def small_detector(folder: Path) -> None:
    onnx.save(yunet_models.yunet(320), folder / DETECTOR)


def web_page_as_detector(folder: Path) -> None:
    (folder / DETECTOR).write_text("<html>Not found</html>")


def no_detector(folder: Path) -> None:
    (folder / DETECTOR).unlink()


def detector_as_recogniser(folder: Path) -> None:
    onnx.save(yunet_models.yunet(), folder / AURAFACE)


def landmarks_as_recogniser(folder: Path) -> None:
    """insightface takes a model of this size for one of landmarks, and says nothing."""
    model = onnx_models.recogniser()
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_value = 192
    onnx.save(model, folder / AURAFACE)


def sface_as_auraface(folder: Path) -> None:
    onnx.save(yunet_models.sface(), folder / AURAFACE)


def elsewhere(folder: Path) -> None:
    onnx.save(onnx_models.recogniser(), folder / AURAFACE, save_as_external_data=True, location="weights.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (scrfd_as_detector, rf"{DETECTOR} is no YuNet detector: it does not give bbox_16, .*obj_8"),
        (small_detector, rf"{DETECTOR} takes pictures of \[1, 3, 320, 320\], not of \[1, 3, 640, 640\]"),
        (web_page_as_detector, rf"{DETECTOR} is not an ONNX file"),
        (no_detector, DETECTOR),
        (detector_as_recogniser, rf"{AURAFACE} is no recogniser of faces: it has 12 outputs"),
        (landmarks_as_recogniser, rf"{AURAFACE} is no recogniser of faces: .* inputs of \[\[None, 3, 192, 192\]\]"),
        (sface_as_auraface, rf"{AURAFACE} gives \(2, 128\) for two faces, not \(2, 512\) as arcface does"),
        (elsewhere, f"{AURAFACE} keeps weights in another file"),
    ],
)
def test_a_file_of_another_kind_is_refused_at_load(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    write_open_face(tmp_path)
    spoil(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        YuNetFaceModel(config(tmp_path))


def test_the_kind_of_the_config_picks_the_model(folder: Path) -> None:
    settings = {"kind": "yunet", "detector": str(folder / DETECTOR)}
    recogniser = {"kind": "sface", "file": str(folder / SFACE)}
    read = FaceEmbedderConfig.model_validate({"model": {**settings, "recogniser": recogniser}})
    assert isinstance(load_face_model(read.model), YuNetFaceModel)

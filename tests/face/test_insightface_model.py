import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from insightface.app import FaceAnalysis

from deployments.config import CascadeFaceModelConfig, FaceEmbedderConfig, InsightFaceModelConfig
from deployments.errors import NoFaceError
from deployments.face.insightface import InsightFaceModel, open_pack
from deployments.face.model import CascadeFaceModel, load_face_model
from deployments.face.similarity import face_similarity
from deployments.types import FaceEmbedding, Photo, Pixels
from tests.support import onnx_models
from tests.support.onnx_models import DETECTOR, RECOGNISER, marker, photo_of, write_insightface_pack

# insightface aligns with a method that scikit-image has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")

SOMEONE = photo_of((marker(120, 1), 90, 60))
SOMEONE_ELSE = photo_of((marker(200, 2), 310, 290), width=700, height=500)
NOBODY = photo_of()


def config(pack: Path, **settings: Any) -> InsightFaceModelConfig:
    return InsightFaceModelConfig(kind="insightface", pack=pack, **settings)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs") / "markers"
    write_insightface_pack(folder)
    return folder


@pytest.fixture(scope="module")
def model(pack: Path) -> InsightFaceModel:
    return InsightFaceModel(config(pack))


@pytest.fixture(scope="module")
def insightface(pack: Path) -> FaceAnalysis:
    """The library as its users call it, all as it comes."""
    analysis = FaceAnalysis(str(pack), providers=["CPUExecutionProvider"])
    analysis.prepare(ctx_id=0)
    return analysis


def bgr(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels[..., ::-1])


def embedded(model: InsightFaceModel, *photos: Pixels) -> list[FaceEmbedding]:
    found = model.embed([Photo(pixels) for pixels in photos])
    faces = [face for face in found if isinstance(face, FaceEmbedding)]
    assert len(faces) == len(photos), found
    return faces


def refused(model: InsightFaceModel, pixels: Pixels) -> NoFaceError:
    (error,) = model.embed([Photo(pixels)])
    assert isinstance(error, NoFaceError)
    return error


def assert_same(ours: FaceEmbedding | NoFaceError, theirs: Any) -> None:
    assert isinstance(ours, FaceEmbedding)
    assert ours.landmarks is not None
    assert ours.vector.shape == (512,)
    assert ours.vector.dtype == np.float32
    np.testing.assert_allclose(ours.vector, theirs.normed_embedding, atol=1e-6)
    np.testing.assert_array_equal(ours.box, theirs.bbox)
    np.testing.assert_array_equal(ours.landmarks, theirs.kps)
    assert ours.score == theirs.det_score


@pytest.mark.parametrize("pixels", [SOMEONE, SOMEONE_ELSE], ids=["square", "wide"])
def test_a_face_is_what_insightface_itself_makes_of_the_photo(
    model: InsightFaceModel, insightface: FaceAnalysis, pixels: Pixels
) -> None:
    (face,) = embedded(model, pixels)
    (theirs,) = insightface.get(bgr(pixels))
    assert_same(face, theirs)


def test_box_and_landmarks_are_in_pixels_of_the_photo(model: InsightFaceModel) -> None:
    (face,) = embedded(model, SOMEONE)
    assert face.box == pytest.approx((90, 60, 210, 180), abs=1)
    assert face.landmarks is not None
    np.testing.assert_allclose(face.landmarks, onnx_models.LANDMARKS * 120 + (90, 60), atol=1)
    assert np.linalg.norm(face.vector) == pytest.approx(1, abs=1e-6)


def test_each_photo_of_a_batch_gets_its_own_face_with_faceless_ones_among_them(
    model: InsightFaceModel, insightface: FaceAnalysis
) -> None:
    photos = [NOBODY, SOMEONE, SOMEONE_ELSE, NOBODY, photo_of((marker(90, 3), 400, 20)), SOMEONE]
    found = model.embed([Photo(pixels) for pixels in photos])
    for ours, pixels in zip(found, photos, strict=True):
        theirs = insightface.get(bgr(pixels))
        if theirs:
            assert_same(ours, theirs[0])
        else:
            assert isinstance(ours, NoFaceError)
    assert [isinstance(face, NoFaceError) for face in found] == [True, False, False, True, False, False]


def test_a_batch_is_recognised_in_one_run(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = InsightFaceModel(config(pack))
    sizes: list[int] = []
    recognise = model._recogniser.get_feat

    def counted(crops: list[Pixels]) -> Any:
        sizes.append(len(crops))
        return recognise(crops)

    monkeypatch.setattr(model._recogniser, "get_feat", counted)
    model.embed([Photo(pixels) for pixels in (SOMEONE, NOBODY, SOMEONE_ELSE, SOMEONE)])
    model.embed([Photo(NOBODY)])
    assert sizes == [3]


def test_no_photos_give_no_results(model: InsightFaceModel) -> None:
    assert model.embed([]) == []


def test_the_same_person_is_alike_elsewhere_and_at_another_size_and_another_person_is_not(
    model: InsightFaceModel,
) -> None:
    here, there, other = embedded(model, SOMEONE, photo_of((marker(180, 1), 400, 300)), SOMEONE_ELSE)
    assert face_similarity(here, there) > 0.98
    assert face_similarity(here, other) < 0.8


def test_the_largest_of_several_faces_wins_over_surer_and_more_central_ones(
    model: InsightFaceModel, insightface: FaceAnalysis
) -> None:
    alone = photo_of((marker(160, 1, red=200), 470, 470))
    crowd = photo_of((marker(80, 2), 0, 10), (marker(160, 1, red=200), 470, 470), (marker(120, 3), 260, 260))
    (face,) = embedded(model, crowd)
    (expected,) = embedded(model, alone)
    assert len(insightface.get(bgr(crowd))) == 3
    assert face.score < max(theirs.det_score for theirs in insightface.get(bgr(crowd)))
    assert face.box == expected.box
    np.testing.assert_allclose(face.vector, expected.vector, atol=1e-6)


def test_insightface_is_given_bgr(model: InsightFaceModel) -> None:
    """The detector knows red markers. Given RGB where it expects BGR, it would know the blue one instead."""
    assert embedded(model, SOMEONE)
    assert refused(model, bgr(SOMEONE)).data["message"] == "no face found"


def test_a_face_that_fills_the_photo_is_found(model: InsightFaceModel, pack: Path) -> None:
    close_up = marker(500, 1)
    one_look = FaceAnalysis(str(pack), providers=["CPUExecutionProvider"])
    one_look.prepare(ctx_id=0, det_size=(640, 640))
    assert one_look.get(bgr(close_up)) == []
    (face,) = embedded(model, close_up)
    assert face.box == pytest.approx((0, 0, 500, 500), abs=4)


def test_a_larger_detection_size_finds_smaller_faces(pack: Path) -> None:
    distant = photo_of((marker(10, 1), 24, 24), width=1536, height=1536)
    assert refused(InsightFaceModel(config(pack, min_face_px=1)), distant).data["faces_found"] == 0
    assert embedded(InsightFaceModel(config(pack, min_face_px=1, detection_size=1536)), distant)


def test_a_face_below_the_detection_threshold_is_none(pack: Path) -> None:
    pale = photo_of((marker(120, 1, red=180), 90, 60))
    assert embedded(InsightFaceModel(config(pack, detection_threshold=0.5)), pale)
    assert refused(InsightFaceModel(config(pack, detection_threshold=0.9)), pale).data["faces_found"] == 0


def test_a_photo_without_a_face_is_told_what_would_be_accepted(model: InsightFaceModel) -> None:
    data = refused(model, NOBODY).data
    assert (data["message"], data["faces_found"]) == ("no face found", 0)
    assert data["accepted"]["min_face_px"] == 48


def test_a_face_that_is_too_small_says_how_large_it_is(pack: Path) -> None:
    two = photo_of((marker(60, 1), 10, 10), (marker(100, 2), 300, 300))
    data = refused(InsightFaceModel(config(pack, min_face_px=101)), two).data
    assert (data["message"], data["faces_found"], data["largest_face_px"]) == ("face too small", 2, 100)
    assert embedded(InsightFaceModel(config(pack, min_face_px=99)), two)


@pytest.mark.parametrize("shape", [(3, 2000), (2000, 3), (1, 1), (8, 1024), (7, 1000)])
def test_a_photo_of_any_shape_does_not_fail_its_neighbours(model: InsightFaceModel, shape: tuple[int, int]) -> None:
    odd = np.full((*shape, 3), 128, dtype=np.uint8)
    nobody, someone = model.embed([Photo(odd), Photo(SOMEONE)])
    assert isinstance(nobody, NoFaceError)
    assert isinstance(someone, FaceEmbedding)


def test_both_sessions_have_the_threads_and_the_provider_of_the_config(pack: Path) -> None:
    models = open_pack(config(pack, threads=2)).models
    assert sorted(models) == ["detection", "recognition"]
    for loaded in models.values():
        assert loaded.session.get_session_options().intra_op_num_threads == 2
        assert loaded.session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.filterwarnings("ignore:.*CUDAExecutionProvider")
def test_a_gpu_that_is_not_there_is_an_error_and_not_a_slow_model(pack: Path) -> None:
    wanted = config(pack, providers=("CUDAExecutionProvider", "CPUExecutionProvider"), gpu_memory_mb=512)
    with pytest.raises(RuntimeError, match="CUDAExecutionProvider was asked for"):
        InsightFaceModel(wanted)


def without_detector(folder: Path) -> None:
    (folder / DETECTOR).unlink()


def without_recogniser(folder: Path) -> None:
    (folder / RECOGNISER).unlink()


def without_landmarks(folder: Path) -> None:
    model = onnx_models.detector()
    del model.graph.output[6:]
    onnx.save(model, folder / DETECTOR)


def with_one_size(folder: Path) -> None:
    onnx.save(onnx_models.detector(size=320), folder / DETECTOR)


def with_short_vectors(folder: Path) -> None:
    onnx.save(onnx_models.recogniser(length=128), folder / RECOGNISER)


def with_weights_elsewhere(folder: Path) -> None:
    onnx.save(onnx_models.recogniser(), folder / RECOGNISER, save_as_external_data=True, location="w600k.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_detector, "no pack with a face detector"),
        (without_recogniser, "has no model for recognition"),
        (without_landmarks, "gives no landmarks"),
        (with_one_size, r"takes pictures of \(320, 320\) only, not of \(640, 640\)"),
        (with_short_vectors, r"gives \(2, 128\) for two faces, not \(2, 512\)"),
        (with_weights_elsewhere, f"{RECOGNISER} keeps weights in another file"),
    ],
)
def test_a_pack_that_cannot_serve_is_refused_at_load(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    write_insightface_pack(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        InsightFaceModel(config(tmp_path))


def test_a_recogniser_that_takes_one_face_at_a_time_is_refused_at_load(tmp_path: Path) -> None:
    write_insightface_pack(tmp_path)
    onnx.save(onnx_models.recogniser(batch=1), tmp_path / RECOGNISER)
    with pytest.raises(Exception, match="Got: 2 Expected: 1"):
        InsightFaceModel(config(tmp_path))


def test_a_detector_of_one_size_serves_at_that_size(tmp_path: Path) -> None:
    write_insightface_pack(tmp_path)
    with_one_size(tmp_path)
    assert embedded(InsightFaceModel(config(tmp_path, detection_size=320)), SOMEONE)


@pytest.mark.parametrize("name", ["buffalo_l", "empty"])
def test_a_pack_that_is_not_there_is_an_error_and_never_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=re.escape(f"{name} is no folder with ONNX files")):
        InsightFaceModel(config(Path(name)))
    assert not (tmp_path / ".insightface").exists()


def test_the_kind_of_the_config_picks_the_model(pack: Path) -> None:
    settings = FaceEmbedderConfig.model_validate({"model": {"kind": "insightface", "pack": str(pack)}})
    assert isinstance(load_face_model(settings.model), InsightFaceModel)
    assert isinstance(load_face_model(CascadeFaceModelConfig()), CascadeFaceModel)


def test_the_cascade_model_loads_without_insightface_and_opencv() -> None:
    code = (
        "import sys; from deployments.config import *; from deployments.face.model import load_face_model;"
        "load_face_model(CascadeFaceModelConfig()); print(sorted({'insightface', 'cv2'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

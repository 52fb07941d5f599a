"""Faces at any angle: what is found, which way up, and how it is then read."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deployments.config import CascadeFaceModelConfig
from deployments.errors import NoFaceError
from deployments.face.cascade import LEVEL_SIDE, LEVEL_WINDOW, LevelSquare
from deployments.face.detection import UNCERTAIN, Candidate
from deployments.face.model import CascadeFaceModel, open_search
from deployments.face.search import CERTAIN, FaceSearch, score
from deployments.face.upright import Pyramid, wrapped
from deployments.types import FaceEmbedding, FoundFaces, Photo
from loadtest.bench.faces.pictures import Case
from serve_app.schemas.faces import Preflight

ASTRONAUT = Case(
    "astronaut",
    np.asarray(Image.open(Path(skimage.data.__file__).parent / "astronaut.png").convert("RGB")),
    (225, 118),
    106,
)
ANGLES = (20, -30, 45, 90, -90, 180)


@pytest.fixture(scope="module")
def search() -> FaceSearch:
    return open_search(CascadeFaceModelConfig())


@pytest.fixture(scope="module")
def model() -> CascadeFaceModel:
    return CascadeFaceModel(CascadeFaceModelConfig())


@pytest.mark.parametrize("degrees", ANGLES)
def test_a_face_is_found_the_right_way_up_however_the_photo_is_turned(search: FaceSearch, degrees: int) -> None:
    case = ASTRONAUT.turned(degrees)
    (face,) = search.find(case.photo).faces
    assert abs(wrapped(face.turn - case.turn)) < math.radians(14)
    x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    assert math.hypot(x - case.middle[0], y - case.middle[1]) < 0.25 * case.side
    assert 0.7 < face.side / case.side < 1.3
    assert face.score >= CERTAIN


def test_a_turned_photo_reads_as_the_upright_one(model: CascadeFaceModel) -> None:
    upright, *turned = model.embed([Photo(ASTRONAUT.turned(degrees).photo) for degrees in (0, 90, 180, -30)])
    assert isinstance(upright, FaceEmbedding)
    for face in turned:
        assert isinstance(face, FaceEmbedding)
        assert float(upright.vector @ face.vector) > 0.9


def test_a_face_that_is_nearly_level_is_read_as_it_stands(search: FaceSearch) -> None:
    (face,) = search.find(ASTRONAUT.turned(-4).photo).faces  # her head leans the other way by itself
    assert face.turn == 0


def test_a_level_square_frames_the_face_in_its_middle() -> None:
    x, y = ASTRONAUT.middle
    reach = ASTRONAUT.side * 1.5
    around = Image.fromarray(ASTRONAUT.photo).crop(
        (round(x - reach), round(y - reach), round(x + reach), round(y + reach))
    )
    square = LevelSquare(around.resize((LEVEL_SIDE, LEVEL_SIDE)))
    assert square.evidence("luminance") > 15
    framed = square.framed("luminance")
    assert framed is not None
    assert np.abs(np.subtract(framed, LEVEL_WINDOW)).max() < 15
    assert LevelSquare(Image.new("RGB", (LEVEL_SIDE, LEVEL_SIDE))).framed("luminance") is None


def test_what_may_be_a_face_is_refused_with_what_would_help(
    model: CascadeFaceModel, search: FaceSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.face.search.LIKELY", 1.1)
    monkeypatch.setattr("deployments.face.search.CERTAIN", 1.1)
    (error,) = model.embed([Photo(ASTRONAUT.photo)])
    assert isinstance(error, NoFaceError)
    assert error.data["message"] == UNCERTAIN
    assert (error.data["reason"], error.data["faces_found"]) == ("uncertain_face", 0)
    found = model.inspect(Photo(ASTRONAUT.photo))
    assert (found.faces, found.refusal, found.uncertain) == ((), "no_face", True)
    told = Preflight.of(Photo(ASTRONAUT.photo), found, fetch_s=0, face_s=0).output
    assert (told.accepted, told.reason, told.message) == (False, "no_face", UNCERTAIN)


def test_nothing_at_all_is_not_called_uncertain(model: CascadeFaceModel) -> None:
    assert model.inspect(Photo(np.full((300, 300, 3), 128, dtype=np.uint8))) == FoundFaces((), 48, "no_face")


def test_an_uncertain_place_does_not_end_the_search(search: FaceSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Image.new("RGB", (900, 600), (90, 110, 120))
    wall.paste(Image.fromarray(ASTRONAUT.photo).crop((120, 20, 330, 230)), (40, 300))

    def looks_in_turn(_photo: Pyramid) -> Iterator[list[Candidate]]:
        yield [Candidate(600, 300, 200, 0.0)]  # nothing but wall
        yield [Candidate(145, 398, 106, 0.0)]
        raise AssertionError("a certain face ends the search")

    def wall_is_likely(evidence: float, logit: float) -> float:
        return score(evidence, logit) if evidence else 0.8

    monkeypatch.setattr(search, "_proposals", looks_in_turn)
    monkeypatch.setattr("deployments.face.search.HOPELESS", -100.0)
    monkeypatch.setattr("deployments.face.search.score", wall_is_likely)
    best, *rest = search.judged(Pyramid(Image.fromarray(np.asarray(wall))))
    assert best.face.x < 300
    assert best.score >= CERTAIN
    assert [one.score for one in rest] == [0.8]
    assert len(search.find(np.asarray(wall)).faces) == 1


@given(st.floats(0, 60), st.floats(-8, 8), st.floats(0.1, 10))
def test_what_speaks_for_a_face_raises_its_score(evidence: float, logit: float, more: float) -> None:
    assert score(evidence, logit) <= score(evidence + more, logit)
    assert score(evidence, logit) <= score(evidence, logit + more)

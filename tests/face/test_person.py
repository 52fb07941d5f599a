"""Several photos of one person become one face."""

from dataclasses import replace

import numpy as np
import pytest

from deployments.config import CascadeFaceModelConfig, InsightFaceModelConfig
from deployments.errors import NoFaceError, OtherPersonError
from deployments.face.person import one_person, strangers
from deployments.types import FaceEmbedding, Vector

TRAITS = CascadeFaceModelConfig()
IDENTITY = InsightFaceModelConfig(kind="insightface", pack="buffalo_l")  # type: ignore[arg-type]


def looks(*angles_in_degrees: float) -> Vector:
    """(n, 512) of length 1, in one plane."""
    angles = np.radians(angles_in_degrees)
    vectors = np.zeros((len(angles), 512), np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    return vectors


def faces(*angles: float) -> list[FaceEmbedding]:
    return [FaceEmbedding(vector, (0, 0, index, index), 1.0) for index, vector in enumerate(looks(*angles))]


def test_one_photo_gives_its_own_face() -> None:
    (face,) = faces(10)
    assert one_person([face], IDENTITY) is face


def test_several_photos_give_the_normalised_mean_of_their_vectors() -> None:
    person = one_person(faces(0, 40), TRAITS)
    np.testing.assert_allclose(person.vector, looks(20)[0], atol=1e-6)
    assert person.box == (0, 0, 0, 0)
    assert person.doubtful == ()


def test_likeness_is_the_normalised_mean_too_where_the_model_tells_it() -> None:
    photos = [replace(face, likeness=vector) for face, vector in zip(faces(0, 40), looks(10, 70), strict=True)]
    person = one_person(photos, TRAITS)
    assert person.likeness is not None
    np.testing.assert_allclose(person.likeness, looks(40)[0], atol=1e-6)
    assert one_person(faces(0, 40), TRAITS).likeness is None


def test_a_photo_without_a_face_is_named_where_there_are_several() -> None:
    with pytest.raises(NoFaceError) as caught:
        one_person([*faces(0, 0), NoFaceError("no face found")], IDENTITY)
    assert caught.value.data["photo"] == 2
    with pytest.raises(NoFaceError) as caught:
        one_person([NoFaceError("no face found")], IDENTITY)
    assert "photo" not in caught.value.data


def test_a_model_that_tells_people_apart_refuses_the_photo_of_somebody_else() -> None:
    with pytest.raises(OtherPersonError) as caught:
        one_person(faces(0, 90, 5), IDENTITY)
    assert caught.value.data["photo"] == 1
    assert caught.value.data["reason"] == "different_people"


def test_a_model_of_traits_only_doubts_it() -> None:
    assert one_person(faces(0, 90, 5, 3), TRAITS).doubtful == (1,)


@pytest.mark.parametrize("config", [TRAITS, IDENTITY])
def test_without_a_threshold_nobody_is_doubted(config: CascadeFaceModelConfig | InsightFaceModelConfig) -> None:
    assert one_person(faces(0, 120), config.model_copy(update={"same_person": None})).doubtful == ()


@pytest.mark.parametrize(
    ("angles", "unlike"),
    [
        ((0, 77), ()),  # a cosine of 0.22
        ((0, 80), (1,)),  # of 0.17: of two the second is named
        ((80, 0, 0), (0,)),
        ((0, 80, 0, 3), (1,)),
        ((0, 90, 180), (0, 1, 2)),
    ],
)
def test_who_is_not_like_the_mean_of_the_others_is_a_stranger(
    angles: tuple[float, ...], unlike: tuple[int, ...]
) -> None:
    assert set(strangers(looks(*angles), 0.2)) == set(unlike)


def test_the_least_like_is_named_first() -> None:
    assert strangers(looks(0, 3, 100, 120), 0.2)[0] == 3

"""Light and colour of photos, without a service: photos in good light stay as they are, others read like those."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from deployments.config import CascadeFaceModelConfig
from deployments.embedded.training.evaluate.figures import DARK_BLACK, PALE_BLOND
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.face.alignment import crop_face
from deployments.face.exposure import MAX_GAIN, correction_of, in_good_light, light_lacking
from deployments.face.light import LINEAR, LUMINANCE, FaceLight, face_light, face_patch
from deployments.face.model import CascadeFaceModel
from deployments.face.quality import face_warnings
from deployments.types import Box, FaceEmbedding, Photo, Pixels
from loadtest.bench.avatars.photos import FACES, Face, photo_of
from loadtest.bench.exposure import levels, scene_of

ASTRONAUT = FACES[0]


def shot(face: Face) -> Pixels:
    photo = photo_of(face)
    assert photo is not None
    return photo


def in_light(photo: Pixels, light: float | tuple[float, float, float]) -> Pixels:
    """The photo with this much of the light, by linear RGB."""
    return np.interp(LINEAR[photo] * np.float32(light), LINEAR, np.arange(256)).round().astype(np.uint8)


def backlit(photo: Pixels, box: Box) -> Pixels:
    """A head that gets 8% of the light, before a bright sky."""
    down, across = np.mgrid[: photo.shape[0], : photo.shape[1]]
    x, y, half = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0]) * 0.8
    head = (((across - x) / half) ** 2 + ((down - y) / half / 1.2) ** 2 < 1)[..., None]
    return np.where(head, in_light(photo, 0.08), np.uint8(240)).astype(np.uint8)


def turned_grey(photo: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(photo).convert("L").convert("RGB"))


def softened(photo: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(3)))


def skin_of(pixels: Pixels, box: Box) -> tuple[float, float]:
    """Luminance, and red over blue, of the middle of a face."""
    middle = face_patch(pixels, box)[32:64, 32:64].reshape(-1, 3)
    red, _, blue = np.median(middle, axis=0)
    return float(np.median(middle @ LUMINANCE)), float(red / blue)


def corrected(photo: Pixels, box: Box) -> Pixels:
    return in_good_light(photo, photo, box)


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
def test_a_photo_in_good_light_stays_as_it_is_and_needs_no_warning(face: Face) -> None:
    photo = shot(face)
    crop = crop_face(photo, face.box)
    assert in_good_light(crop, photo, face.box) is crop
    assert face_warnings(photo, face.box, None) == ()


@pytest.mark.parametrize(
    ("wall", "eyes"), [(0.8, 0.75), (0.8, 0.1), (0.002, 0.75)], ids=["white wall", "eyes nearly shut", "black wall"]
)
@pytest.mark.parametrize("person", [DARK_BLACK, PALE_BLOND], ids=["dark", "pale"])
def test_skin_in_good_light_is_not_made_lighter_whatever_is_behind_it(
    person: Portrait, wall: float, eyes: float
) -> None:
    scene, box = scene_of(person, 3, eyes)
    photo = levels(scene.lit(wall=wall))
    before, after = skin_of(photo, box)[0], skin_of(corrected(photo, box), box)[0]
    assert after == pytest.approx(before, rel=0.1)


@pytest.mark.parametrize(
    ("face", "poor"),
    [
        *((face, lambda photo, box: in_light(photo, 0.15)) for face in FACES),
        *((face, backlit) for face in FACES[:-1]),  # the last has skin so red that it might be dark
    ],
)
def test_a_face_in_shade_is_given_its_light_back(face: Face, poor: Callable[[Pixels, Box], Pixels]) -> None:
    photo = shot(face)
    dark = poor(photo, face.box)
    (wanted, _), (had, _) = skin_of(photo, face.box), skin_of(dark, face.box)
    got, _ = skin_of(corrected(dark, face.box), face.box)
    assert had < 0.2 * wanted
    assert 0.5 * wanted < got < 1.3 * wanted


@pytest.mark.parametrize("light", [(1.0, 0.62, 0.31), (0.4, 0.67, 1.0), (0.58, 1.0, 0.58), (1.0, 0.64, 1.0)], ids=str)
def test_the_colour_of_the_light_is_taken_from_the_skin(light: tuple[float, float, float]) -> None:
    photo = shot(ASTRONAUT)
    tinted = in_light(photo, light)
    _, wanted = skin_of(photo, ASTRONAUT.box)
    _, got = skin_of(corrected(tinted, ASTRONAUT.box), ASTRONAUT.box)
    assert got == pytest.approx(wanted, rel=0.25)


def test_a_grey_photo_is_given_the_hue_of_skin_and_keeps_its_light() -> None:
    grey = turned_grey(shot(ASTRONAUT))
    (light, hue), (light_after, hue_after) = (
        skin_of(photo, ASTRONAUT.box) for photo in (grey, corrected(grey, ASTRONAUT.box))
    )
    assert hue == pytest.approx(1.0, abs=0.01)
    assert hue_after > 1.5
    assert light_after == pytest.approx(light, rel=0.1)


UPRIGHT = np.array([[210, 100], [250, 100], [230, 120], [215, 140], [245, 140]], np.float32)
LEANING = np.array([[210, 100], [250, 120], [225, 125], [205, 135], [235, 150]], np.float32)


@pytest.mark.parametrize(
    ("treated", "codes"),
    [
        (lambda photo: photo, ()),
        (lambda photo: in_light(photo, 0.15), ("too_dark",)),
        (lambda photo: backlit(photo, ASTRONAUT.box), ("backlit",)),
        (lambda photo: in_light(photo, (1.0, 0.62, 0.31)), ("colour_cast",)),
        (turned_grey, ("monochrome",)),
        (softened, ("blurred",)),
        (lambda photo: in_light(turned_grey(softened(photo)), 0.15), ("too_dark", "monochrome", "blurred")),
    ],
    ids=["good", "dark", "backlit", "lamp", "grey", "blurred", "all of it"],
)
def test_what_spoils_a_photo_is_told(treated: Callable[[Pixels], Pixels], codes: tuple[str, ...]) -> None:
    assert face_warnings(treated(shot(ASTRONAUT)), ASTRONAUT.box, UPRIGHT) == codes


def test_a_head_is_tilted_where_the_eyes_say_so() -> None:
    photo = shot(ASTRONAUT)
    assert face_warnings(photo, ASTRONAUT.box, LEANING) == ("tilted",)
    assert face_warnings(photo, ASTRONAUT.box, None) == ()


@given(
    *(st.floats(1e-5, 1.0) for _ in range(4)),
    st.floats(-1.0, 3.0),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    st.booleans(),
)
def test_no_light_is_taken_away_and_never_more_than_a_camera_can_lack_is_given(
    skin: float, whites: float, brightest: float, surround: float, redness: float, cast: tuple[float, float], grey: bool
) -> None:
    light = FaceLight(skin, whites, brightest, surround, redness, cast, grey)
    assert 1 <= light_lacking(light) <= MAX_GAIN
    assert 1 <= correction_of(light).gain <= MAX_GAIN


@pytest.mark.parametrize("side", [(1, 60), (60, 1), (3, 3), (48, 2000)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_any_photo_has_a_light(side: tuple[int, int], level: int) -> None:
    photo = np.full((*side, 3), level, np.uint8)
    assert face_light(photo, (-5.0, -5.0, 40.0, 40.0)).whites > 0
    assert corrected(photo, (-5.0, -5.0, 40.0, 40.0)).shape == photo.shape


def test_the_embedded_model_reads_a_dark_photo_as_the_same_in_good_light_and_avatars_as_they_are() -> None:
    model, photo = CascadeFaceModel(CascadeFaceModelConfig(avatar_face=(0.34, 0.13, 0.54, 0.33))), shot(ASTRONAUT)
    dark = in_light(photo, 0.15)
    good, poor, as_avatar = model.embed([Photo(photo), Photo(dark), Photo(dark, is_generated=True)])
    assert isinstance(good, FaceEmbedding)
    assert isinstance(poor, FaceEmbedding)
    assert isinstance(as_avatar, FaceEmbedding)
    assert float(poor.vector @ good.vector) > 0.95
    assert float(as_avatar.vector @ good.vector) < float(poor.vector @ good.vector) - 0.03

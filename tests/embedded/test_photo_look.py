"""The photo look of drawn heads: labels that agree with the picture, and every option drawn."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.embedded.training.renderer.lifelike.anatomy import anatomy_of
from deployments.embedded.training.renderer.lifelike.canvas import Canvas
from deployments.embedded.training.renderer.lifelike.light import Light, normals
from deployments.embedded.training.renderer.lifelike.pose import Pose, origins
from deployments.embedded.training.renderer.lifelike.shot import Place, Shot, composed, take
from deployments.embedded.training.renderer.lifelike.surface import head_height
from deployments.embedded.training.renderer.parts import (
    BACKGROUND,
    BEARD,
    BROW,
    FRAME,
    HAIR,
    HAT,
    IRIS,
    LENS,
    LIPS,
    PARTS,
    SCLERA,
    SKIN,
    TEETH,
)
from deployments.embedded.training.renderer.photo import avatar_view, labelled_views, render_photo
from deployments.embedded.training.renderer.population import random_portrait
from deployments.embedded.training.renderer.portrait import Beard, Glasses, HairStyle, Hat, Portrait
from deployments.face.alignment import CROP_SIZE

SIDE = 128
PLACE = Place(SIDE / 2, SIDE / 2 + 5, SIDE / 1.9 / 2.5, 0.0)
LAMP = np.float32([0.6, 0.6, 0.6])
FLAT = Light(np.array([0.0, 0.0, 1.0]), LAMP, LAMP, LAMP, 0 * LAMP, 1.0)


def person(**changes: object) -> Portrait:
    plain = random_portrait(np.random.default_rng(3))
    usual = {
        "gender": "man", "hair_style": "parted", "beard": "none", "glasses": "none", "hat": "none", "yaw": 0.0,
        "tilt": 0.0, "age": 0.45, "wrinkles": 0.1, "recession": 0.1, "expression": "neutral", "skin": (223, 172, 130),
        "hair": (88, 58, 38), "eyes": (70, 110, 160), "eye_size": 0.9, "identity": 5,
    }  # fmt: skip
    return replace(plain, **(usual | changes))  # type: ignore[arg-type]


def layers(portrait: Portrait) -> Canvas:
    rng = np.random.default_rng(8)
    return composed(portrait, anatomy_of(portrait, rng), FLAT, rng)


def shot(portrait: Portrait, seed: int = 8) -> Shot:
    return take(portrait, PLACE, SIDE, np.random.default_rng(seed))


def changed(one: Canvas, other: Canvas) -> NDArray[np.bool_]:
    return np.asarray((abs(one.colour - other.colour) > 1e-4).any(-1))


def shares(portrait: Portrait) -> NDArray[np.float64]:
    labels = layers(portrait).labels
    return np.bincount(labels.ravel(), minlength=PARTS) / labels.size


def test_other_eyes_change_the_pixels_of_the_iris_alone() -> None:
    one, other = layers(person()), layers(person(eyes=(62, 38, 24)))
    different = changed(one, other)
    within = one.labels == IRIS
    assert different[within].mean() > 0.9
    rim = different & ~within
    assert rim.sum() < 0.6 * within.sum(), "only the soft rim of the iris, where less than half of a pixel is iris"
    assert set(np.unique(one.labels[rim])) <= {SKIN, SCLERA}


def test_another_colour_of_hair_changes_hair_and_brows_and_hardly_anything_else() -> None:
    one, other = layers(person(beard="full")), layers(person(beard="full", hair=(214, 176, 112)))
    different, hairy = changed(one, other), np.isin(one.labels, (HAIR, BROW, BEARD))
    assert different[hairy].mean() > 0.97
    assert (abs(one.colour - other.colour)[~hairy & (one.labels != BACKGROUND)].mean()) < 0.02


def test_a_hat_is_where_its_colour_shows() -> None:
    one, other = layers(person(hat="cap", hat_name="red")), layers(person(hat="cap", hat_name="blue"))
    assert changed(one, other)[one.labels == HAT].mean() > 0.9
    assert not changed(one, other)[one.labels == SKIN].mean() > 0.03


def test_only_who_wears_glasses_beard_or_hat_has_their_labels() -> None:
    bare, dressed = shares(person()), shares(person(glasses="square", beard="full", hat="beanie"))
    assert (bare[[FRAME, LENS, BEARD, HAT]] == 0).all()
    assert (dressed[[FRAME, BEARD, HAT]] > 0.001).all()
    assert dressed[LENS] == 0, "clear lenses show what is behind them"
    assert shares(person(glasses="sun"))[LENS] > 0.005
    assert shares(person(hair_style="bald", brows=1.0))[HAIR] == 0


def test_a_laugh_shows_teeth_and_a_serious_face_lips_alone() -> None:
    laughing, serious = shares(person(expression="laughing")), shares(person(expression="serious"))
    assert laughing[TEETH] > 0.0005
    assert serious[TEETH] == 0
    assert serious[LIPS] > 0.0005


@pytest.mark.parametrize("style", get_args(HairStyle))
def test_every_hair_style_is_drawn(style: HairStyle) -> None:
    taken = shot(person(hair_style=style, gender="woman"))
    assert np.isfinite(taken.light).all()
    assert ((taken.labels == HAIR).mean() > 0.01) == (style != "bald")


@pytest.mark.parametrize(
    ("field", "option", "part"),
    [("hat", hat, HAT) for hat in get_args(Hat)[1:]]
    + [("glasses", kind, FRAME) for kind in get_args(Glasses)[1:]]
    + [("beard", kind, BEARD) for kind in get_args(Beard)[2:]],
)
def test_every_hat_pair_of_glasses_and_beard_is_drawn(field: str, option: str, part: int) -> None:
    taken = shot(person(**{field: option}))
    assert np.isfinite(taken.light).all()
    assert (taken.labels == part).mean() > 0.002


def test_the_same_seed_takes_the_same_photo_and_another_one_another() -> None:
    first, again, other = (render_photo(person(), np.random.default_rng(seed), 96) for seed in (1, 1, 2))
    assert np.array_equal(first.picture, again.picture)
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.picture, other.picture)


def test_landmarks_lie_on_eyes_and_mouth_however_the_head_is_turned() -> None:
    for yaw, tilt in ((0.0, 0.0), (0.7, 10.0), (-0.6, -15.0)):
        taken = shot(person(yaw=yaw, tilt=tilt, hair_style="buzz", expression="surprised"))
        left, right, _, *corners = taken.landmarks
        for x, y in (left, right):
            around = taken.labels[int(y) - 2 : int(y) + 3, int(x) - 3 : int(x) + 4]
            assert np.isin(around, (IRIS, SCLERA)).any()
        x, y = np.mean(corners, 0)
        assert np.isin(taken.labels[int(y) - 3 : int(y) + 6, int(x) - 2 : int(x) + 3], (LIPS, TEETH)).any()
        assert left[0] < right[0]


def test_a_head_that_looks_into_the_camera_is_seen_where_it_is_drawn() -> None:
    face = anatomy_of(person(), np.random.default_rng(0))
    pose = Pose(yaw=0.0, pitch=0.0, roll=0.0, distance=1e6, stretch=1.0)
    screen = np.stack(np.meshgrid(np.linspace(-0.8, 0.8, 9), np.linspace(-0.8, 1.2, 9)), -1)
    rows, columns = origins(screen, head_height(face), pose)
    units = np.stack([columns, rows], -1)
    steps = np.diff(units[4, :, 0]), np.diff(units[:, 4, 1])
    assert np.ptp(steps[0]) < 0.05
    assert np.ptp(steps[1]) < 0.05


def test_the_side_of_a_face_that_is_away_from_the_lamp_faces_away() -> None:
    towards = normals(head_height(anatomy_of(person(), np.random.default_rng(0))))
    height, width = towards.shape[:2]
    left, right = (towards[height // 2, width // 2 + side * 35] for side in (-1, 1))
    assert left[0] < -0.2
    assert right[0] > 0.2


def test_on_the_whole_light_and_shade_leave_the_skin_its_brightness() -> None:
    ratios = []
    for seed in range(6):
        one = random_portrait(np.random.default_rng(seed))
        view = render_photo(replace(one, hat="none", glasses="none"), np.random.default_rng(seed), 96)
        skin = np.asarray(view.picture)[view.labels == SKIN]
        ratios.append(np.quantile(skin, 0.65, axis=0).sum() / sum(one.skin))
    assert np.median(ratios) == pytest.approx(1.0, abs=0.15)


def test_views_and_avatars_carry_their_parts() -> None:
    (view,) = labelled_views(person(), np.random.default_rng(1), 1)
    avatar = avatar_view(person(beard="full"), np.random.default_rng(1))
    assert view.shape == avatar.shape == (CROP_SIZE, CROP_SIZE, 4)
    assert {BACKGROUND, SKIN, HAIR, BROW} <= set(np.unique(view[..., 3]))
    assert {BACKGROUND, SKIN, HAIR, BROW, IRIS, SCLERA, BEARD} <= set(np.unique(avatar[..., 3]))


def test_one_person_has_one_face_in_all_sittings() -> None:
    first, second = (anatomy_of(person(), np.random.default_rng(seed)) for seed in (1, 2))
    assert first.nose_wide == second.nose_wide
    assert first.eye_x == second.eye_x
    assert anatomy_of(person(identity=6), np.random.default_rng(1)).eye_x != first.eye_x

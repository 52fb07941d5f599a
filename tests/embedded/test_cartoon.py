"""Cartoons: every trait of a person is seen at 64 pixels."""

from dataclasses import replace
from itertools import combinations
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from deployments.embedded.training.data.dataset import avatar_of
from deployments.embedded.training.evaluate.figures import PALE_BLOND
from deployments.embedded.training.renderer.cartoon.hair import HIGHEST, receded, voluminous
from deployments.embedded.training.renderer.cartoon.styles import style_of
from deployments.embedded.training.renderer.figure import render_labelled
from deployments.embedded.training.renderer.flat.view import flat_view
from deployments.embedded.training.renderer.parts import (
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
from deployments.embedded.training.renderer.photo import avatar_view
from deployments.embedded.training.renderer.population import random_portrait
from deployments.embedded.training.renderer.portrait import (
    EYE_COLOURS,
    HAIR_LENGTH,
    Beard,
    Glasses,
    HairStyle,
    Hat,
    Portrait,
)

EYES, MOUTH = (IRIS, SCLERA), (LIPS, TEETH)
Pixels = NDArray[np.uint8]


def person(**changes: Any) -> Portrait:
    usual = {
        "gender": "man", "skin": (238, 193, 156), "hair": (88, 58, 38), "hair_style": "parted", "beard": "none",
        "glasses": "none", "hat": "none", "earrings": False, "age": 0.35, "expression": "smiling", "jaw": 0.5,
        "face_length": 0.5, "eye_size": 0.5, "nose_size": 0.5, "lips": 0.5, "brows": 0.5, "cheeks": 0.5,
        "mouth_width": 0.5, "volume": 0.5, "recession": 0.1, "wrinkles": 0.0, "parting": 0.5,
    }  # fmt: skip
    return replace(PALE_BLOND, **(usual | changes))


def drawn(portrait: Portrait) -> tuple[NDArray[np.int64], Pixels]:
    """The picture as the latents hold it, (64, 64, 3), and its parts, (64, 64)."""
    picture, _, labels = render_labelled(portrait, 128)
    small = picture.resize((64, 64), Image.Resampling.BOX)
    return np.asarray(small).astype(np.int64), np.asarray(labels)[::2, ::2]


def difference(one: Portrait, other: Portrait, *parts: int) -> float:
    """As `apart`, of two persons' pictures."""
    return apart(drawn(one), drawn(other), *parts)


def apart(one: tuple[NDArray[np.int64], Pixels], other: tuple[NDArray[np.int64], Pixels], *parts: int) -> float:
    """Mean difference in levels of 255 where either picture shows one of the parts."""
    (a, seen), (b, seen_too) = one, other
    where = np.isin(seen, parts) | np.isin(seen_too, parts)
    return float(abs(a - b)[where].mean())


@pytest.mark.parametrize(
    ("trait", "parts", "levels"),
    [
        ("jaw", (SKIN,), 3),
        ("face_length", (SKIN,), 12),
        ("eye_size", EYES, 20),
        ("nose_size", (SKIN,), 1.2),
        ("lips", MOUTH, 9),
        ("brows", (BROW,), 45),
        ("cheeks", (SKIN,), 2),
        ("mouth_width", MOUTH, 25),
        ("volume", (HAIR,), 20),
        ("recession", (HAIR,), 9),
        ("parting", (HAIR,), 7),
        ("wrinkles", (SKIN,), 2),
    ],
)
def test_either_end_of_a_trait_is_another_picture(trait: str, parts: tuple[int, ...], levels: float) -> None:
    assert difference(person(**{trait: 0.0}), person(**{trait: 1.0}), *parts) > levels


@pytest.mark.parametrize("kind", [kind for kind in get_args(Glasses) if kind != "none"])
def test_a_wire_frame_is_thinner_than_acetate_and_has_its_colour(kind: Glasses) -> None:
    wire, acetate = person(glasses=kind, frame_weight=0.0), person(glasses=kind, frame_weight=1.0)
    rims = [int((np.asarray(render_labelled(one, 128)[2]) == FRAME).sum()) for one in (wire, acetate)]
    assert rims[1] > 1.5 * rims[0]
    assert difference(acetate, replace(acetate, glasses_colour=(172, 36, 46)), FRAME) > 20


@pytest.mark.parametrize(
    ("field", "options", "parts", "levels"),
    [
        ("hat", get_args(Hat), (HAT, HAIR), 12),
        ("beard", get_args(Beard), (BEARD, SKIN), 4),
        ("glasses", get_args(Glasses), (FRAME, LENS), 25),
        ("eyes", EYE_COLOURS, (IRIS,), 4),
    ],
)
def test_any_two_options_are_told_apart(
    field: str, options: tuple[Any, ...], parts: tuple[int, ...], levels: float
) -> None:
    shown = {option: drawn(person(**{field: option})) for option in options}
    for one, other in combinations(options, 2):
        assert apart(shown[one], shown[other], *parts) > levels, (one, other)


def test_any_two_hair_styles_are_told_apart() -> None:
    shown = {style: drawn(person(hair_style=style)) for style in HAIR_LENGTH}
    for one, other in combinations(shown, 2):
        assert apart(shown[one], shown[other], HAIR) > 12, (one, other)


def test_a_child_is_narrow_in_the_shoulders_and_its_eyes_are_low() -> None:
    child, grown = (render_labelled(person(age=age), 128) for age in (0.05, 0.35))
    shoulders = [int((np.asarray(alpha)[-1] > 127).sum()) for _, alpha, _ in (child, grown)]
    eyes = [np.isin(np.asarray(labels), EYES).nonzero()[0].mean() for _, _, labels in (child, grown)]
    assert shoulders[0] < 0.8 * shoulders[1]
    assert eyes[0] > eyes[1] + 1


def test_a_headscarf_hides_hair_and_ears() -> None:
    for style in ("long", "afro", "locs"):
        labels = np.asarray(render_labelled(person(gender="woman", hair_style=style, hat="headscarf"), 128)[2])
        assert (labels == HAT).any()
        assert not (labels == HAIR).any()


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_any_person_has_a_face_within_the_picture(seed: int) -> None:
    shown, alpha, labels = (
        np.asarray(part) for part in render_labelled(random_portrait(np.random.default_rng(seed)), 64)
    )
    assert shown.shape == (64, 64, 3)
    assert labels.max() < PARTS
    assert 0.2 < (alpha > 127).mean() < 0.9
    assert (labels[16:46, 16:48] == SKIN).mean() > 0.05


@settings(deadline=None)
@given(
    style=st.sampled_from(get_args(HairStyle)),
    recession=st.floats(0, 1),
    x=st.floats(-42, 42),
    y=st.floats(-56, 20),
)
def test_a_receding_hairline_rises_but_never_beyond_the_skull(
    style: HairStyle, recession: float, x: float, y: float
) -> None:
    ((_, risen),) = receded(np.array([[x, y]]), style_of(style, False), person(recession=recession))
    assert risen <= y
    if risen < y:
        assert (x / 42.5) ** 2 + (risen / 57.0) ** 2 < 1


@settings(deadline=None)
@given(volume=st.floats(0, 1), x=st.floats(-80, 80), y=st.floats(-90, 110))
def test_volume_moves_what_stands_beyond_the_skull_and_keeps_it_in_the_picture(
    volume: float, x: float, y: float
) -> None:
    ((across, down),) = voluminous(np.array([[x, y]]), volume)
    assert down >= -HIGHEST
    inside = np.hypot(x / 42.5, min(y, 0.0) / 57.0) <= 1
    assert not inside or (across, down) == (x, y)
    assert abs(across) >= abs(x) or volume < 0.5


def test_what_the_generator_learns_keeps_the_persons_hair_style() -> None:
    for style in get_args(HairStyle):
        assert avatar_of(person(hair_style=style), np.random.default_rng(0), default=True).hair_style == style


def test_an_avatar_in_the_encoders_training_shows_what_a_flat_drawing_cannot() -> None:
    avatar, braided = (avatar_view(person(hair_style=style), np.random.default_rng(0)) for style in ("locs", "braids"))
    assert not np.array_equal(avatar, braided)
    flat, same = (flat_view(person(hair_style=style), np.random.default_rng(0)) for style in ("locs", "braids"))
    np.testing.assert_array_equal(flat, same)

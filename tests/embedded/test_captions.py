"""Captions of the generator's training pictures: what the photo does not show is told."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.embedded.training.data.captions import (
    AGED,
    AGES,
    BACKGROUNDS,
    BEARDS,
    CLOTHES,
    GENDERED,
    HATS,
    PHOTOGRAPHED,
    SCENES,
    STYLE_WORDS,
    WINKS,
)
from deployments.embedded.training.data.dataset import avatar_of
from deployments.embedded.training.data.overrides import changed, changed_traits, hat_changed
from deployments.embedded.training.renderer.population import UNDER_NO_HAT, random_portrait
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.train.diffusion import caption_of
from deployments.embedded.training.train.text import ANSWERS, PLACES, UNNAMED, answers

SEEDS = st.integers(0, 1 << 30)


def person(seed: int) -> Portrait:
    return random_portrait(np.random.default_rng(seed))


def words_of(portrait: Portrait, trait: str) -> list[str]:
    """Some of which a caption that tells the trait has."""
    match trait:
        case "gender":
            return [word for words in GENDERED[portrait.gender].values() for word in words]
        case "age_name":
            return [*AGES[portrait.age_name], *AGED, "year old"]
        case "hat":
            return [*HATS[portrait.hat]]
        case "beard":
            return [*BEARDS[portrait.beard]]
        case "glasses":
            return ["no glasses", "without glasses"] if portrait.glasses == "none" else ["glasses"]
        case "hair_style":
            return [*STYLE_WORDS[portrait.hair_style]]
    return ["hair", *STYLE_WORDS[portrait.hair_style]]  # a colour before either


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_a_caption_tells_whatever_the_photo_does_not_show(seed: int) -> None:
    rng = np.random.default_rng(seed)
    somebody = person(seed)
    avatar = avatar_of(somebody, rng, default=False)
    caption = caption_of(somebody, avatar, False, rng).lower()
    for trait in changed_traits(somebody, avatar):
        assert any(word in caption for word in words_of(avatar, trait)), trait
    if avatar.scene in SCENES:
        assert any(phrase in caption for phrase in SCENES[avatar.scene])
    if avatar.scene == "gradient":
        assert "gradient" in caption
        assert avatar.background_name in caption
        assert avatar.second_name in caption
    if avatar.winking:
        assert any(phrase in caption for phrase in WINKS)
    if avatar.clothes not in PHOTOGRAPHED:
        assert any(name in caption for name in CLOTHES[avatar.clothes])
    assert avatar.pattern == "plain" or "striped" in caption


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_the_default_prompt_changes_the_gender_alone(seed: int) -> None:
    somebody = person(seed)
    avatar = avatar_of(somebody, np.random.default_rng(seed), default=True)
    assert changed_traits(somebody, avatar) <= {"gender"}
    assert (avatar.scene, avatar.background_name, avatar.pattern, avatar.winking) == ("plain", "black", "plain", False)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_a_changed_person_is_one_that_there_could_be(seed: int) -> None:
    other = changed(person(seed), np.random.default_rng(seed))
    assert other.hat == "none" or other.hair_style not in UNDER_NO_HAT
    assert other.beard == "none" or (other.gender == "man" and other.age_name != "child")
    assert other.age_name != "child" or other.hair_style not in ("bald", "receding")


def test_nobody_changed_tells_nothing_and_a_hat_does_not_tell_the_hair_that_it_flattens() -> None:
    somebody = replace(person(1), hat="none", hair_style="afro")
    assert changed_traits(somebody, somebody) == frozenset()
    assert changed_traits(somebody, hat_changed(somebody, np.random.default_rng(0))) == {"hat"}


@pytest.mark.parametrize("name", ["beach", "stars", "teal"])
def test_the_text_encoder_is_asked_for_the_scene_that_a_caption_tells(name: str) -> None:
    scene = {"scene": name} if name in SCENES else {"background_name": name}
    portrait = replace(person(2), **scene)
    phrase = SCENES[portrait.scene][0] if name in SCENES else BACKGROUNDS[0].format(name)
    asked = list(ANSWERS).index("background")
    assert answers(portrait, f"portrait of a man, {phrase.upper()}", "man")[asked] == PLACES.index(name)
    assert answers(portrait, "portrait of a man", "man")[asked] == UNNAMED

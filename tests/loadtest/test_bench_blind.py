"""Sheets for a blind choice: the key says of each sheet what is on it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deployments.config import CascadeFaceModelConfig
from deployments.embedded.training.renderer.appearance import read_embedding
from deployments.embedded.training.renderer.portrait import Gender
from deployments.face.model import CascadeFaceModel
from loadtest.bench.avatars.blind import (
    CELL,
    LETTERS,
    MARGIN,
    TooFewPhotosError,
    read_folder,
    trials,
    write_sheets,
)
from loadtest.bench.avatars.scores import Picture
from serve_app.photos.sample import sample_photo

GROUP = st.integers(4, 7)


def genders(women: int, men: int) -> dict[str, Gender]:
    return {f"w{i}.jpg": "woman" for i in range(women)} | {f"m{i}.jpg": "man" for i in range(men)}


@settings(deadline=None)
@given(GROUP, st.just(0) | GROUP, st.integers(0, 99))
def test_each_photo_is_beside_its_own_avatar_and_three_others_of_its_gender(women: int, men: int, seed: int) -> None:
    people = genders(women, men)
    made = trials(people, {}, np.random.default_rng(seed))
    assert sorted(one.photo for one in made) == sorted(people)
    for one in made:
        assert len(set(one.avatars)) == len(LETTERS)
        assert {people[name] for name in one.avatars} == {people[one.photo]}
        assert one.avatars[LETTERS.index(one.right)] == one.photo


def test_all_letters_are_right_sometimes_and_the_order_is_not_the_folders() -> None:
    made = trials(genders(40, 0), {}, np.random.default_rng(0))
    assert {one.right for one in made} == set(LETTERS)
    assert [one.photo for one in made] != list(genders(40, 0))


@pytest.mark.parametrize(("women", "men", "said"), [(3, 0, "3 of a woman"), (5, 1, "1 of a man"), (0, 0, "none")])
def test_fewer_than_four_of_a_gender_are_refused_and_the_words_help(women: int, men: int, said: str) -> None:
    with pytest.raises(TooFewPhotosError, match=f"(?s){said}.*--gender.*notes.txt: not a picture"):
        trials(genders(women, men), {"notes.txt": "not a picture"}, np.random.default_rng(0))


def flat(level: int) -> Picture:
    return np.full((64, 64, 3), level, np.uint8)


def test_the_key_says_what_is_on_each_sheet(tmp_path: Path) -> None:
    levels = {name: 20 * number for number, name in enumerate(genders(5, 4), start=1)}
    made = trials(genders(5, 4), {}, np.random.default_rng(1))
    write_sheets(made, {name: flat(level) for name, level in levels.items()}, lambda name: flat(levels[name]), tmp_path)
    key = json.loads((tmp_path / "key.json").read_text())
    assert len(key) == len(levels) == len(list(tmp_path.glob("sheet-*.png")))
    for sheet, told in key.items():
        pixels = np.asarray(Image.open(tmp_path / sheet))
        seen = [int(pixels[MARGIN + CELL // 2, MARGIN + CELL // 2 + place * (CELL + MARGIN), 0]) for place in range(5)]
        assert seen == [levels[told["photo"]], *(levels[told["avatars"][letter]] for letter in LETTERS)]
        assert told["avatars"][told["right"]] == told["photo"]


def test_a_folder_is_read_by_the_services_model_and_says_what_it_cannot_use(tmp_path: Path) -> None:
    shutil.copy(sample_photo(), tmp_path / "a.png")
    Image.fromarray(flat(90)).save(tmp_path / "b.png")
    (tmp_path / "c.txt").write_text("no picture")
    model = CascadeFaceModel(CascadeFaceModelConfig(threads=1))
    subjects, unusable = read_folder(tmp_path, model, None)
    ((name, gender),) = ((one.name, one.gender) for one in subjects)
    assert (name, gender) == ("a.png", read_embedding(subjects[0].embedding)["gender"])
    assert list(unusable) == ["b.png", "c.txt"]
    assert [read_folder(tmp_path, model, told)[0][0].gender for told in ("man", "woman")] == ["man", "woman"]

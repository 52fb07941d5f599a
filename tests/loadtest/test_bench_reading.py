"""The measure of reading: its scores by their definition, and the rendering that no training sees."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.config import CascadeFaceModelConfig
from deployments.embedded.training.renderer.appearance import embeddings_of
from deployments.embedded.training.renderer.portrait import HAIR_LENGTH, Glasses, HairStyle, Hat, Portrait
from deployments.errors import NoFaceError
from deployments.face.model import CascadeFaceModel
from deployments.types import FaceEmbedding, FoundFaces, Photo
from loadtest.bench.reading.__main__ import answers, read, readings
from loadtest.bench.reading.camera import LIGHTS, PLAIN
from loadtest.bench.reading.face import head
from loadtest.bench.reading.hair import beard, hair
from loadtest.bench.reading.persons import persons
from loadtest.bench.reading.photos import Photos
from loadtest.bench.reading.portrait import Sitting, sitting
from loadtest.bench.reading.scores import both_right, chance, macro_recall
from loadtest.bench.reading.skull import Skull
from loadtest.bench.reading.surfels import Numbers, single, together
from loadtest.bench.reading.traits import FACTORS, TRAITS
from loadtest.bench.reading.worn import glasses, hat

CLASSES = st.sampled_from("abc")
TRUTHS = st.lists(CLASSES, min_size=1)
BLANK = np.zeros((1, 1, 3), np.uint8)
PLAIN_PERSON = replace(
    persons(1)[0], hair_style="swept", beard="none", glasses="none", hat="none", expression="neutral", eye_size=0.8,
    age=0.5, gender="man", earrings=False,
)  # fmt: skip


@settings(deadline=None)
@given(TRUTHS, CLASSES)
def test_a_constant_answer_scores_chance_whatever_the_frequencies(truth: list[str], always: str) -> None:
    expected = chance(truth) if always in truth else 0.0
    assert macro_recall(truth, [always] * len(truth)) == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(st.tuples(CLASSES, CLASSES), min_size=1))
def test_macro_recall_is_the_mean_of_what_each_class_gets_alone(pairs: list[tuple[str, str]]) -> None:
    alone = [[pair for pair in pairs if pair[0] == each] for each in {true for true, _ in pairs}]
    shares = [sum(true == told for true, told in some) / len(some) for some in alone]
    truth, told = zip(*pairs, strict=True)
    assert macro_recall(truth, told) == pytest.approx(np.mean(shares))


@settings(deadline=None)
@given(TRUTHS, st.data())
def test_both_right_is_at_most_either_and_counts_nobody_without_a_class(truth: list[str], data: st.DataObject) -> None:
    answered = st.lists(st.none() | CLASSES, min_size=len(truth), max_size=len(truth))
    first, second = data.draw(answered), data.draw(answered)
    both = both_right(truth, first, second)
    for one in (first, second):
        assert both <= np.mean([true == told for true, told in zip(truth, one, strict=True)])
    assert both_right([*truth, None], [*first, None], [*second, None]) == both


class Reader:
    """A face model that names every trait of one person, or finds no face."""

    def __init__(self, person: Portrait | None) -> None:
        self.person = person

    def embed(self, photos: Sequence[Photo]) -> list[FaceEmbedding | NoFaceError]:
        if self.person is None:
            return [NoFaceError("none") for _ in photos]
        (vector,) = embeddings_of([self.person])
        return [FaceEmbedding(vector, (0.0, 0.0, 1.0, 1.0), 1.0) for _ in photos]

    def inspect(self, photo: Photo) -> FoundFaces:
        raise NotImplementedError


def recalls(people: Sequence[Portrait], reader_of: dict[int, Portrait | None]) -> dict[str, tuple[float, float, float]]:
    """Of each trait that anybody has: recall, that of chance, both right."""
    photos = Photos(BLANK, [BLANK] * len(LIGHTS), 0, BLANK, BLANK)
    told = [readings(Reader(reader_of[number]), person, photos) for number, person in enumerate(people)]
    rows = [answers(trait, told).row(trait.name, trait.bar) for trait in TRAITS]
    return {row.trait: (row.recall, row.chance, row.both) for row in rows if row.persons}


def test_who_reads_everything_scores_one_who_says_always_the_same_no_more_than_chance() -> None:
    people = persons(33)
    truth = recalls(people, dict(enumerate(people)))
    for name in ("skin tone", "hair colour", "gender", "beard", "jaw", "face length", "brows", "nose", "lips", "age"):
        assert truth[name][0] == truth[name][2] == 1, name
    constant = recalls(people, dict.fromkeys(range(len(people)), people[0]))
    assert all(recall <= by_chance + 1e-9 for recall, by_chance, _ in constant.values())
    nobody = recalls(people, dict.fromkeys(range(len(people))))
    assert all(recall == both == 0 for recall, _, both in nobody.values())


def test_every_class_of_every_trait_is_among_the_persons_and_children_have_no_beards() -> None:
    people = persons(110)
    seen = {trait.name: {trait.truth(person) for person in people} - {None} for trait in TRAITS}
    assert {name: len(classes) for name, classes in seen.items()} == {
        "skin tone": 3, "hair colour": 6, "eye colour": 4, "gender": 2, "age": 5, "wrinkles": 2, "beard": 5,
        "glasses": 4, "frame weight": 2, "hat": 5, "jaw": 2, "cheeks": 2, "face length": 2, "brows": 2, "nose": 2,
        "lips": 2, "mouth width": 2, "eye size": 2, "hair: length": 5, "hair: texture": 6, "hair: fringe": 2,
        "hair: parting": 3, "hair: tied": 2, "hair: volume": 2, "hair: recession": 2,
    }  # fmt: skip
    assert {person.hair_style for person in people} == set(HAIR_LENGTH) == set(FACTORS)
    assert {person.beard for person in people if person.age_name == "child" or person.gender == "woman"} == {"none"}


@cache
def places(person: Portrait, part: str) -> Numbers:
    """(n, 3) of a person's hair, beard, glasses or hat."""
    skull, rng = Skull(person), np.random.default_rng(0)
    parts = {
        "hair": lambda: hair(skull, None, rng),
        "beard": lambda: beard(skull, rng),
        "glasses": lambda: glasses(skull),
        "hat": lambda: hat(skull),
    }[part]()
    return together(parts).place if parts else single(np.zeros((0, 3)))


def about(points: Numbers) -> tuple[float, ...]:
    """Where they are, and how far they spread."""
    return (float(len(points)), *points.mean(0).round(4).tolist(), *points.std(0).round(4).tolist())


@pytest.mark.parametrize("part", ["hair", "beard", "glasses", "hat"])
def test_each_option_is_drawn_and_no_two_are_drawn_alike(part: str) -> None:
    options = {
        "hair": ("hair_style", get_args(HairStyle), "bald"),
        "beard": ("beard", ("none", "moustache", "goatee", "full"), "none"),
        "glasses": ("glasses", get_args(Glasses), "none"),
        "hat": ("hat", get_args(Hat), "none"),
    }
    field, names, nothing = options[part]
    drawn = {name: places(replace(PLAIN_PERSON, **{field: name}), part) for name in names}
    assert len(drawn.pop(nothing)) == 0
    assert all(np.isfinite(points).all() and len(points) > 1000 for points in drawn.values())
    assert len({about(points) for points in drawn.values()}) == len(drawn)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("skin", (90, 60, 45)),
        ("hair", (220, 180, 120)),
        ("eyes", (70, 110, 160)),
        ("beard", "stubble"),
        ("wrinkles", 1.0),
    ],
)
def test_a_trait_of_the_head_changes_its_colours(field: str, value: object) -> None:
    before, after = (
        head(Skull(person), np.random.default_rng(0)).albedo
        for person in (PLAIN_PERSON, replace(PLAIN_PERSON, **{field: value}))
    )
    assert before.shape == after.shape
    assert (np.abs(before - after) > 0.02).any(axis=1).mean() > 0.0005


@pytest.fixture(scope="module")
def brown_eyed() -> Sitting:
    return sitting(replace(PLAIN_PERSON, eyes=(84, 54, 30)), 0)


def test_only_the_eyes_of_the_picture_change_with_their_colour_and_its_face_is_found(brown_eyed: Sitting) -> None:
    brown, blue = brown_eyed.photo(), sitting(replace(PLAIN_PERSON, eyes=(70, 110, 160)), 0).photo()
    rows, columns = np.nonzero((brown.astype(int) - blue).any(axis=2))
    height, width, _ = brown.shape
    assert 20 < len(rows) < 0.01 * height * width
    assert np.ptp(rows) < 0.1 * height
    assert np.ptp(columns) < 0.3 * width
    assert read(CascadeFaceModel(CascadeFaceModelConfig(threads=1)), blue) is not None


def test_each_light_gives_another_photo_and_the_same_light_the_same(brown_eyed: Sitting) -> None:
    means = {brown_eyed.photo(light).mean((0, 1)).round(1).tobytes() for light in (PLAIN, *LIGHTS, PLAIN)}
    assert len(means) == 1 + len(LIGHTS)

"""What the benchmark of prompt words asks, of whom, and how it sees that it was followed."""

import numpy as np
from numpy.typing import NDArray

from deployments.embedded.training.evaluate.figures import held_out
from deployments.embedded.training.evaluate.judge import HEADS, Readings
from deployments.embedded.training.renderer.portrait import HAIR_COLOURS
from loadtest.bench.avatars.scores import lab_of
from loadtest.bench.vocabulary import FIRST_PERSON, FORMS, Phrase, Result, fits, phrases, table, value_of, values_seen

ALL = list(phrases())


def phrase(text: str, gender: str | None = None) -> Phrase:
    (found,) = [one for one in ALL if one.text == text and one.gender in (None, gender)]
    return found


def test_a_phrase_that_several_values_share_is_followed_by_any_of_them() -> None:
    assert phrase("hat").values == {"beanie", "cap", "brimmed"}
    assert phrase("glasses").values == {"round", "square"}
    assert phrase("young").values == {"child", "young"}
    assert phrase("grandmother", "woman").values == {"old"}
    for one in ALL:
        assert one.values
        assert one.values <= ({*HAIR_COLOURS} if one.trait == "hair colour" else {*map(str, HEADS[one.trait])})


def test_prompts_say_the_phrase_of_a_person_in_each_form() -> None:
    assert [phrase("beanie").prompt(i, "woman") for i in range(len(FORMS))] == [
        "portrait of a woman, beanie",
        "beanie, cartoon portrait of a woman",
        "avatar of a woman, highly detailed, beanie",
    ]
    assert phrase("old").prompt(0, "man") == "portrait of an old man"
    assert phrase("grandpa", "man").prompt(1, "man") == "cartoon portrait of a grandpa"


def test_nobody_is_asked_for_what_the_photo_shows_or_what_could_not_be_seen() -> None:
    people = held_out(300, FIRST_PERSON)
    for one in ALL:
        chosen = [person for person in people if fits(one, person)]
        assert chosen, f"nobody fits {one}"
        assert all(value_of(person, one.trait) not in one.values for person in chosen)
        if one.kind == "beards":
            assert {person.gender for person in chosen} == {"man"}
        if one.kind.startswith("hair"):
            assert {person.hat for person in chosen} == {"none"}


def readings(**best: list[str]) -> Readings:
    """Of pictures whose likeliest values are given."""
    likelihoods: dict[str, NDArray[np.float64]] = {
        head: np.array([[float(str(value) == seen) for value in HEADS[head]] for seen in values])
        for head, values in best.items()
    }
    hair = lab_of([HAIR_COLOURS["red"], HAIR_COLOURS["black"]])
    return Readings(likelihoods, hair, hair)


def test_pictures_show_their_likeliest_value_and_the_nearest_named_colour() -> None:
    seen = readings(hat=["cap", "none"], winking=["True", "False"])
    assert values_seen(seen, "hat") == ["cap", "none"]
    assert values_seen(seen, "winking") == ["True", "False"]
    assert values_seen(seen, "hair colour") == ["red", "black"]


def test_the_table_has_a_row_for_each_phrase() -> None:
    assert table([Result("hats", "cap", 1.0, 0.0, 8), Result("hats", "fedora", 0.5, 0.1, 8)]).row_count == 2

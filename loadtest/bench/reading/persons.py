"""Persons whom nothing was trained on, so drawn that every class of every trait is about equally frequent."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar, get_args

import numpy as np

from deployments.embedded.training.renderer.population import STYLES_OF, UNDER_NO_HAT, random_portrait
from deployments.embedded.training.renderer.portrait import (
    BEARD_AMOUNT,
    EYE_COLOURS,
    HAIR_COLOURS,
    HAIR_LENGTH,
    SKIN_RAMP,
    Gender,
    Glasses,
    Hat,
    Portrait,
    jittered,
)
from loadtest.bench.reading.traits import GROUPS_OF_HAIR

FIRST_PERSON = 140_000  # the training's seeds end at 90,000, `HELD_OUT`
AGES = {
    "child": (0.03, 0.07),
    "young": (0.2, 0.3),
    "adult": (0.46, 0.52),
    "middle-aged": (0.64, 0.7),
    "old": (0.85, 0.95),
}
LINES = {
    "child": (0.0, 0.0),
    "young": (0.0, 0.05),
    "adult": (0.08, 0.16),
    "middle-aged": (0.42, 0.5),
    "old": (0.8, 1.0),
}
ENDS = ("jaw", "cheeks", "face_length", "brows", "nose_size", "lips", "mouth_width", "eye_size")
Card = TypeVar("Card")


def deck(cards: Sequence[Card], rng: np.random.Generator) -> Iterator[Card]:
    """All cards, shuffled, again and again."""
    while True:
        yield from (cards[int(place)] for place in rng.permutation(len(cards)))


def low_or_high(high: bool, rng: np.random.Generator) -> float:
    """Well off the middle."""
    return float(rng.uniform(0.78, 1.0) if high else rng.uniform(0.0, 0.22))


def persons(count: int) -> list[Portrait]:
    """The same each time."""
    rng = np.random.default_rng(FIRST_PERSON)
    decks: dict[str, Iterator[Any]] = {
        "hair_style": deck(tuple(HAIR_LENGTH), rng),
        "age": deck(tuple(AGES), rng),
        "skin": deck(SKIN_RAMP, rng),
        "hair": deck(tuple(dict.fromkeys(GROUPS_OF_HAIR.values())), rng),
        "eyes": deck((*EYE_COLOURS[::2], *EYE_COLOURS[2:5]), rng),
        "beard": deck(tuple(BEARD_AMOUNT), rng),
        "glasses": deck(("none", *get_args(Glasses)), rng),
        "hat": deck(("none",) * 4 + get_args(Hat)[1:], rng),
        "thick": deck((True, False), rng),
        "volume": deck((True, False), rng),
        "recession": deck((True, False), rng),
        **{field: deck((True, False), rng) for field in ENDS},
    }
    return [drawn(number, decks) for number in range(count)]


def drawn(number: int, decks: dict[str, Iterator[Any]]) -> Portrait:
    """The next of each deck, but for what does not go together: a child has no beard, a bun goes under no hat."""
    rng = np.random.default_rng(FIRST_PERSON + number)
    style, age = next(decks["hair_style"]), next(decks["age"])
    if age == "child" and style in ("bald", "receding"):
        age = "old"
    genders: list[Gender] = [gender for gender, styles in STYLES_OF.items() if styles.get(style, 0.0) >= 0.5]
    gender = genders[number % len(genders)]
    hat: Hat = "none" if style in (*UNDER_NO_HAT, "bald") else next(decks["hat"])
    colour = next(decks["hair"])
    names = [name for name, group in GROUPS_OF_HAIR.items() if group == colour]
    child = age == "child"
    person = replace(
        random_portrait(rng),
        gender=gender,
        hair_style=style,
        age=float(rng.uniform(*AGES[age])),
        wrinkles=float(rng.uniform(*LINES[age])),
        skin=jittered(next(decks["skin"]), rng, 0.02),
        hair=jittered(HAIR_COLOURS[names[int(rng.integers(len(names)))]], rng, 0.02),
        eyes=next(decks["eyes"]),
        beard="none" if child or gender == "woman" else next(decks["beard"]),
        glasses=next(decks["glasses"]),
        frame_weight=low_or_high(next(decks["thick"]), rng),
        hat="brimmed" if hat == "headscarf" and gender == "man" else hat,
        volume=low_or_high(next(decks["volume"]), rng),
        recession=0.0 if child or gender == "woman" else receding(style, decks, rng),
        expression=("neutral", "smiling", "laughing", "serious")[number % 4],
    )
    if child:
        return replace(person, jaw=0.25, cheeks=0.8, face_length=0.2, brows=0.25, nose_size=0.2, lips=0.5,
                       mouth_width=0.35, eye_size=0.8)  # fmt: skip
    numbers: dict[str, Any] = {field: low_or_high(next(decks[field]), rng) for field in ENDS}
    return replace(person, **numbers)


def receding(style: str, decks: dict[str, Iterator[Any]], rng: np.random.Generator) -> float:
    """A receding style always is."""
    return float(rng.uniform(0.65, 0.95) if style == "receding" or next(decks["recession"]) else rng.uniform(0, 0.1))

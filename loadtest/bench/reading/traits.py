"""The traits that are scored, as classes: those of a person, and those that the encoder's vector names.

A trait that cannot be seen on a person has no class there and is not counted: hair under a hat, eyes behind sunglasses.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from deployments.embedded.training.renderer.appearance import lab
from deployments.embedded.training.renderer.portrait import (
    AGE_ENDS,
    EYE_COLOURS,
    HAIR_COLOURS,
    Colour,
    HairStyle,
    Portrait,
)
from loadtest.bench.avatars.scores import differences

Read = Mapping[str, Any]  # of `read_embedding`
TRAIT_BAR, AGE_BAR, HAIR_BAR = 0.85, 0.8, 0.75


@dataclass(frozen=True, slots=True)
class Factors:
    """What a hair style is made of; None: there is none, or it cannot be told."""

    length: str | None = "short"
    texture: str | None = "straight"
    parting: str | None = "none"
    fringe: str | None = "no"
    tied: str | None = "no"


FACTORS: dict[HairStyle, Factors] = {
    "bald": Factors("bald", None, None, None, None),
    "buzz": Factors("cropped", None),
    "crew cut": Factors("cropped"),
    "receding": Factors("cropped"),
    "undercut": Factors(parting="side"),
    "parted": Factors(parting="side"),
    "quiff": Factors(),
    "swept": Factors(),
    "fringe": Factors(fringe="yes"),
    "pixie": Factors(parting=None, fringe="yes"),
    "curly": Factors(texture="curly"),
    "short afro": Factors(texture="coily"),
    "afro": Factors(texture="coily"),
    "bun": Factors(None, tied="yes"),
    "ponytail": Factors(None, tied="yes"),
    "bob": Factors("medium", parting="side"),
    "side part": Factors("long", parting="side"),
    "long": Factors("long", parting="middle"),
    "wavy": Factors("long", "wavy", parting="middle"),
    "long curly": Factors("long", "curly", parting="middle"),
    "braids": Factors("long", "plaits", parting="middle", tied=None),
    "locs": Factors("medium", "locs", parting=None),
}
GROUPS_OF_HAIR = {
    "black": "black",
    "dark brown": "brown", "brown": "brown", "light brown": "brown",
    "dark blond": "blond", "blond": "blond", "pale blond": "blond",
    "red": "red", "auburn": "red",
    "grey": "grey", "white": "white",
}  # fmt: skip
GROUPS_OF_EYES = dict(zip(EYE_COLOURS, ("brown", "brown", "blue", "green", "grey", "brown"), strict=True))


@dataclass(frozen=True, slots=True)
class Trait:
    """`truth` gives the class of a person, `read` that of a reading: None where it names none, which is wrong."""

    name: str
    bar: float
    truth: Callable[[Portrait], str | None]
    read: Callable[[Read], str | None]


@cache
def tone(skin: Colour) -> str:
    """By CIE L*."""
    light = lab(skin)[0]
    return "light" if light > 70 else "medium" if light > 45 else "dark"


@cache
def hair_group(hair: Colour) -> str:
    """Of the named colour that is nearest by CIEDE2000."""
    names = list(HAIR_COLOURS)
    apart = differences(np.stack([lab(HAIR_COLOURS[name]) for name in names]), lab(hair))
    return GROUPS_OF_HAIR[names[int(np.argmin(apart))]]


def age_group(age: float) -> str:
    """As `Portrait.age_name`."""
    return next((name for name, end in AGE_ENDS.items() if age < end), "old")


def shows_hair(person: Portrait) -> bool:
    """All of it."""
    return person.hat == "none" and person.hair_style != "bald"


def ends(field: str, visible: Callable[[Portrait], bool] = lambda person: True, middle: float = 0.5) -> Trait:
    """Whether a number of a person is high or low."""
    name = {"nose_size": "nose"}.get(field, field.replace("_", " "))

    def word(value: float | None) -> str | None:
        return None if value is None else "high" if value > middle else "low"

    return Trait(
        name,
        TRAIT_BAR,
        lambda person: word(getattr(person, field)) if visible(person) else None,
        lambda told: word(told.get(name)),
    )


def option(field: str, visible: Callable[[Portrait], bool] = lambda person: True) -> Trait:
    """One of some words."""
    return Trait(
        field.replace("_", " "),
        TRAIT_BAR,
        lambda person: str(getattr(person, field)) if visible(person) else None,
        lambda told: told.get(field.replace("_", " ")),
    )


def factor(name: str) -> Trait:
    """Of the hair style."""
    return Trait(
        f"hair: {name}",
        HAIR_BAR,
        lambda person: getattr(FACTORS[person.hair_style], name) if person.hat == "none" else None,
        lambda told: getattr(FACTORS[told["hair style"]], name),
    )


def hair_end(field: str, visible: Callable[[Portrait], bool], middle: float = 0.5) -> Trait:
    """A number of the hair."""
    trait = ends(field, visible, middle)
    return Trait(f"hair: {field}", HAIR_BAR, trait.truth, trait.read)


def is_grown(person: Portrait) -> bool:
    """A child's proportions go with its age."""
    return person.age_name != "child"


def shows_volume(person: Portrait) -> bool:
    """Cropped hair has none, and tied hair little."""
    return shows_hair(person) and person.hair_style not in ("buzz", "crew cut", "receding", "bun", "ponytail", "braids")


def shows_hairline(person: Portrait) -> bool:
    """Not under a fringe, nor under hair that stands about the face."""
    return shows_hair(person) and FACTORS[person.hair_style].fringe == "no" and person.gender == "man"


TRAITS: tuple[Trait, ...] = (
    Trait("skin tone", TRAIT_BAR, lambda person: tone(person.skin), lambda told: tone(told["skin"])),
    Trait(
        "hair colour",
        TRAIT_BAR,
        lambda person: hair_group(person.hair) if shows_hair(person) else None,
        lambda told: hair_group(told["hair"]),
    ),
    Trait(
        "eye colour",
        TRAIT_BAR,
        lambda person: None if person.glasses == "sun" else GROUPS_OF_EYES[person.eyes],
        lambda told: GROUPS_OF_EYES[told["eyes"]],
    ),
    option("gender"),
    Trait("age", AGE_BAR, lambda person: person.age_name, lambda told: age_group(told["age"])),
    ends("wrinkles", middle=0.3),
    option("beard"),
    option("glasses"),
    ends("frame_weight", lambda person: person.glasses not in ("none", "sun")),
    option("hat"),
    *(ends(field, is_grown) for field in ("jaw", "cheeks", "face_length", "brows", "nose_size", "lips", "mouth_width")),
    ends("eye_size", lambda person: is_grown(person) and person.glasses != "sun"),
    *(factor(name) for name in ("length", "texture", "fringe", "parting", "tied")),
    hair_end("volume", shows_volume),
    hair_end("recession", shows_hairline, middle=0.4),
)

"""What a prompt asks for that the photo does not show: a scene, a garment, a wink, traits other than the photo's."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from deployments.embedded.training.renderer.population import (
    GLASSES,
    HATS,
    UNDER_NO_HAT,
    fraction,
    random_frame,
    random_hair,
    random_style,
    weighted,
)
from deployments.embedded.training.renderer.portrait import (
    HAIR_COLOURS,
    NAMED_COLOURS,
    Beard,
    Clothes,
    HairStyle,
    Portrait,
    Scene,
    jittered,
    pick,
)

SCENES: dict[Scene, float] = {
    "plain": 9, "gradient": 1.2, "beach": 0.8, "forest": 0.8, "office": 0.8, "city": 0.8, "snow": 0.8, "stars": 0.8,
}  # fmt: skip
GARMENTS: dict[Clothes, float] = {"suit": 1.4, "dress": 1, "sweater": 1, "lab coat": 0.6}
STRIPED: tuple[Clothes, ...] = ("t-shirt", "v-neck", "sweater", "turtleneck", "dress")
BEARDS: dict[Beard, float] = {"stubble": 0.5, "moustache": 1, "goatee": 1, "full": 2}
FLATTENED: dict[HairStyle, HairStyle] = {"bun": "long", "ponytail": "long", "afro": "short afro"}  # by a hat
CHANGEABLE = ("gender", "age_name", "hat", "glasses", "beard", "hair_style", "hair")


def in_scene(person: Portrait, rng: np.random.Generator) -> Portrait:
    """Before a scene in nearly half of the cases, and at times in clothes that nobody wears on photos, or winking."""
    scene = weighted(SCENES, rng)
    clothes = weighted(GARMENTS, rng) if rng.random() < 0.35 else person.clothes
    clothes = "suit" if clothes == "dress" and person.gender == "man" else clothes
    winking = bool(rng.random() < 0.1)
    return replace(
        person,
        scene=scene,
        second_name=pick([name for name in NAMED_COLOURS if name != person.background_name], rng),
        texture=int(rng.integers(1 << 30)),
        clothes=clothes,
        pattern="striped" if clothes in STRIPED and rng.random() < 0.25 else "plain",
        winking=winking,
        expression=("smiling", "laughing")[int(rng.random() < 0.3)] if winking else person.expression,
    )


def hat_changed(person: Portrait, rng: np.random.Generator) -> Portrait:
    """A hat on a bare head, where the hair lies flat, or none in its place."""
    if person.hat != "none":
        return replace(person, hat="none")
    hat = weighted({kind: share for kind, share in HATS.items() if kind != "none"}, rng)
    hat = "brimmed" if hat == "headscarf" and person.gender == "man" else hat
    style = FLATTENED[person.hair_style] if person.hair_style in UNDER_NO_HAT else person.hair_style
    return replace(person, hat=hat, hat_name=pick(list(NAMED_COLOURS), rng), hair_style=style)


def glasses_changed(person: Portrait, rng: np.random.Generator) -> Portrait:
    """Puts some on, or takes them off."""
    if person.glasses != "none":
        return replace(person, glasses="none")
    worn = weighted({kind: share for kind, share in GLASSES.items() if kind != "none"}, rng)
    return replace(person, glasses=worn, glasses_colour=random_frame(person.skin, rng))


def beard_changed(person: Portrait, rng: np.random.Generator) -> Portrait:
    """A man's beard grows or is shaved off; women and children stay as they are."""
    if person.gender == "woman" or person.age_name == "child":
        return person
    return replace(person, beard=weighted(BEARDS, rng) if person.beard == "none" else "none")


def hair_changed(person: Portrait, rng: np.random.Generator) -> Portrait:
    """Another colour, another style, or none of it."""
    kind = rng.random()
    if kind < 0.25 and person.age_name != "child":
        return replace(person, hair_style="bald")
    if kind < 0.6 and person.hair_style != "bald":
        return replace(person, hair=jittered(HAIR_COLOURS[pick(list(HAIR_COLOURS), rng)], rng, 0.03))
    style = random_style(person.gender, person.skin, person.age, rng)
    return replace(person, hair_style=style, hat="none" if style in UNDER_NO_HAT else person.hat)


def age_changed(person: Portrait, rng: np.random.Generator) -> Portrait:
    """A child, young or old, in face and hair."""
    aged = (as_child, as_young, as_old)[rng.choice(3, p=[0.3, 0.2, 0.5])]
    return aged(person, rng)


def as_child(person: Portrait, rng: np.random.Generator) -> Portrait:
    """Round, with large eyes and a small nose, as `random_portrait` draws children."""
    hairy = person if person.hair_style not in ("bald", "receding") else replace(person, hair_style="fringe")
    hair = random_hair(rng, 0.0) if is_grey(person) else person.hair
    return replace(
        hairy, age=float(rng.uniform(0, 0.1)), hair=hair, beard="none", wrinkles=0.0, recession=0.0,
        jaw=fraction(rng, 0.25, 0.12), face_length=float(rng.uniform(0, 0.35)), eye_size=float(rng.uniform(0.6, 1)),
        nose_size=float(rng.uniform(0, 0.35)), brows=float(rng.uniform(0, 0.5)), cheeks=fraction(rng, 0.8, 0.12),
    )  # fmt: skip


def as_young(person: Portrait, rng: np.random.Generator) -> Portrait:
    """From 18 to 30 years, without wrinkles or grey hair."""
    hair = random_hair(rng, 0.2) if is_grey(person) else person.hair
    return replace(person, age=float(rng.uniform(0.18, 0.34)), hair=hair, wrinkles=0.0, recession=0.0)


def as_old(person: Portrait, rng: np.random.Generator) -> Portrait:
    """Over 60, with wrinkles, and mostly with grey or white hair."""
    age = float(rng.uniform(0.78, 1))
    grey = jittered(HAIR_COLOURS["grey" if rng.random() < 0.5 else "white"], rng, 0.04)
    return replace(
        person,
        age=age,
        hair=grey if rng.random() < 0.85 and not is_grey(person) else person.hair,
        wrinkles=fraction(rng, 1.35 * (age - 0.35), 0.12),
    )


def is_grey(person: Portrait) -> bool:
    """Whether the hair is grey or white."""
    return max(person.hair) - min(person.hair) < 24 and min(person.hair) > 90


Change = Callable[[Portrait, np.random.Generator], Portrait]
CHANGES: tuple[Change, ...] = (hat_changed, glasses_changed, beard_changed, hair_changed, age_changed)
WORN = 3  # so many of them, from the first, go together


def changed(person: Portrait, rng: np.random.Generator) -> Portrait:
    """The person with one trait that the photo does not have, or two things worn or shaved off."""
    two = rng.random() < 0.25
    chosen = rng.permutation(WORN)[:2] if two else [rng.integers(len(CHANGES))]
    for index in chosen:
        person = CHANGES[index](person, rng)
    return person


def changed_traits(person: Portrait, portrait: Portrait) -> frozenset[str]:
    """The traits in which a picture differs from the person on the photo, and which its caption must tell for that.

    One that follows from another is not among them: grey hair from age, a woman's bare chin, hair that a hat flattens.
    """
    traits = {trait for trait in CHANGEABLE if getattr(person, trait) != getattr(portrait, trait)}
    if "age_name" in traits:
        traits -= {"hair", "hair_style", "beard"}
    if "gender" in traits and portrait.gender == "woman":
        traits -= {"beard"}
    if "hat" in traits and portrait.hat != "none":
        traits -= {"hair_style"}
    if portrait.hair_style == "bald":
        traits -= {"hair"}
    return frozenset(traits)

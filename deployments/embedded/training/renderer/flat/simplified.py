"""The nearest options, for those that flat drawings do not have."""

from dataclasses import replace

from deployments.embedded.training.renderer.portrait import EYE_COLOURS, Colour, Glasses, HairStyle, Hat, Portrait

STYLES: dict[HairStyle, HairStyle] = {"crew cut": "buzz", "locs": "braids", "long curly": "wavy"}
HATS: dict[Hat, Hat] = {"headscarf": "beanie", "brimmed": "cap"}
GLASSES: dict[Glasses, Glasses] = {"sun": "square"}
EYES: dict[Colour, Colour] = {EYE_COLOURS[5]: EYE_COLOURS[1]}


def simplified(person: Portrait) -> Portrait:
    """The person with the nearest hair style, hat, glasses and eye colour of those that are drawn."""
    return replace(
        person,
        hair_style=STYLES.get(person.hair_style, person.hair_style),
        hat=HATS.get(person.hat, person.hat),
        glasses=GLASSES.get(person.glasses, person.glasses),
        eyes=EYES.get(person.eyes, person.eyes),
    )

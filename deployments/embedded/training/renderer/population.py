"""How people of the training sets are distributed: what is common in life is common, what is rare is still learned."""

from typing import TypeVar

import numpy as np

from deployments.embedded.training.renderer.portrait import (
    EYE_COLOURS,
    FRAMES,
    HAIR_COLOURS,
    NAMED_COLOURS,
    SKIN_RAMP,
    Beard,
    Colour,
    Gender,
    Glasses,
    HairStyle,
    Hat,
    Portrait,
    another_sitting,
    between,
    brightness,
    jittered,
    pick,
)

Option = TypeVar("Option", bound=str)

UNDER_NO_HAT: tuple[HairStyle, ...] = ("bun", "ponytail", "afro")
STYLES_OF: dict[Gender, dict[HairStyle, float]] = {
    "man": {
        "crew cut": 4, "buzz": 2.5, "parted": 2.5, "quiff": 2.3, "swept": 2.3, "undercut": 2.2, "fringe": 2.3,
        "receding": 2, "bald": 2.2, "curly": 2, "short afro": 1.5, "afro": 0.8, "long": 1, "wavy": 1, "long curly": 0.7,
        "bun": 0.8, "ponytail": 0.5, "braids": 0.5, "locs": 0.8, "bob": 0.6,
    },
    "woman": {
        "long": 4.5, "wavy": 4.5, "bob": 4.5, "side part": 3.5, "long curly": 3, "ponytail": 3.2, "bun": 3,
        "pixie": 2.2, "curly": 1.5, "fringe": 1, "braids": 1.2, "short afro": 0.8, "afro": 1, "locs": 0.8, "buzz": 0.3,
        "bald": 0.2, "undercut": 0.3,
    },
}  # fmt: skip
GROWN_ONLY: tuple[HairStyle, ...] = ("bald", "receding")
COILY: tuple[HairStyle, ...] = ("short afro", "afro", "braids", "locs")
DARK_SKIN = 105.0  # brightness: below it hair and eyes are mostly dark, and hair is often coily
HATS: dict[Hat, float] = {"none": 0.89, "beanie": 0.035, "cap": 0.035, "headscarf": 0.02, "brimmed": 0.02}
GLASSES: dict[Glasses, float] = {"none": 0.66, "round": 0.14, "square": 0.14, "sun": 0.06}


def weighted(weights: dict[Option, float], rng: np.random.Generator) -> Option:
    """One of the options, as likely as its share of all weights."""
    options, shares = list(weights), np.array([*weights.values()])
    return options[rng.choice(len(options), p=shares / shares.sum())]


def fraction(rng: np.random.Generator, mean: float, spread: float) -> float:
    """Normally distributed, within 0..1."""
    return float(np.clip(rng.normal(mean, spread), 0, 1))


def random_skin(rng: np.random.Generator) -> Colour:
    """Evenly along SKIN_RAMP, from light to dark, with an undertone from rosy to olive."""
    position = rng.uniform(0, len(SKIN_RAMP) - 1)
    index = min(int(position), len(SKIN_RAMP) - 2)
    r, g, b = jittered(between(SKIN_RAMP[index], SKIN_RAMP[index + 1], position - index), rng, 0.03)
    undertone = rng.normal(0, 0.03)
    return r, int(np.clip(g * (1 + undertone * 0.4), 0, 255)), int(np.clip(b * (1 - undertone), 0, 255))


def random_hair(rng: np.random.Generator, age: float = 0.5) -> Colour:
    """Grey is for the old, though not for all of them."""
    names = list(HAIR_COLOURS)
    weights = np.array([4.5, 4, 4, 3, 3, 3, 2, 2.5, 2, 1.0, 0.5])
    if age < 0.4:
        weights[-2:] = 0.1 if age >= 0.1 else 0.0
    elif age > 0.75:
        weights[-2:] = 9.0
    first, second = rng.choice(len(names), size=2, p=weights / weights.sum())
    return jittered(between(HAIR_COLOURS[names[first]], HAIR_COLOURS[names[second]], rng.uniform(0, 0.3)), rng, 0.04)


def hair_with(skin: Colour, age: float, rng: np.random.Generator) -> Colour:
    """Dark skin mostly comes with dark hair, or grey in age."""
    hair = random_hair(rng, age)
    blond = max(hair) - min(hair) > 30 and brightness(hair) > 70
    if blond and brightness(skin) < DARK_SKIN and rng.random() < 0.75:
        return jittered(HAIR_COLOURS["black" if rng.random() < 0.7 else "dark brown"], rng, 0.04)
    return hair


def random_beard(gender: Gender, age: float, rng: np.random.Generator) -> Beard:
    """Women and children have none, and neither have 45% of men."""
    kinds: tuple[Beard, ...] = ("none", "stubble", "moustache", "goatee", "full")
    return "none" if gender == "woman" or age < 0.1 else kinds[rng.choice(5, p=[0.45, 0.16, 0.08, 0.1, 0.21])]


def random_style(gender: Gender, skin: Colour, age: float, rng: np.random.Generator) -> HairStyle:
    """Coily hair is rarer on light skin; children are not bald."""
    weights = dict(STYLES_OF[gender])
    for style in weights:
        if style in COILY:
            weights[style] *= 2.5 if brightness(skin) < DARK_SKIN else 0.6
        elif style in GROWN_ONLY:
            weights[style] *= 0.0 if age < 0.1 else 0.4 if age < 0.4 else 1.4
    return weighted(weights, rng)


def random_frame(skin: Colour, rng: np.random.Generator) -> Colour:
    """A colour of glasses, which mostly stands out from the skin."""
    fit = [frame for frame in FRAMES if abs(brightness(frame) - brightness(skin)) > 62 or rng.random() < 0.25]
    return fit[rng.integers(len(fit))]


def random_eyes(skin: Colour, rng: np.random.Generator) -> Colour:
    """Nearly always brown where the skin is dark."""
    shares = [0.32, 0.22, 0.18, 0.1, 0.08, 0.1] if brightness(skin) > DARK_SKIN else [0.6, 0.33, 0.01, 0.02, 0.01, 0.03]
    return EYE_COLOURS[rng.choice(len(EYE_COLOURS), p=shares)]


def random_recession(gender: Gender, style: HairStyle, age: float, rng: np.random.Generator) -> float:
    """Grows with a man's age; a receding style has much of it."""
    if age < 0.1:
        return 0.0
    if style == "receding":
        return float(rng.uniform(0.5, 1.0))
    return fraction(rng, 0.75 * age - 0.12, 0.2) if gender == "man" else fraction(rng, 0.2 * age - 0.08, 0.06)


def random_portrait(rng: np.random.Generator) -> Portrait:
    """A person as the training sets have them, in a random sitting; the same generator state gives the same person."""
    gender: Gender = "man" if rng.random() < 0.5 else "woman"
    skin, age = random_skin(rng), float(rng.random())
    child, man = age < 0.1, gender == "man"
    style = random_style(gender, skin, age, rng)
    hat: Hat = "none" if style in UNDER_NO_HAT else weighted(HATS, rng)
    hat = "brimmed" if hat == "headscarf" and man else hat
    person = Portrait(
        gender=gender,
        skin=skin,
        hair=hair_with(skin, age, rng),
        hair_style=style,
        beard=random_beard(gender, age, rng),
        glasses=weighted(GLASSES, rng),
        glasses_colour=random_frame(skin, rng),
        hat=hat,
        hat_name=pick(list(NAMED_COLOURS), rng),
        earrings=bool(rng.random() < (0.05 if man else 0.4)),
        eyes=random_eyes(skin, rng),
        expression="smiling",
        age=age,
        clothes="t-shirt",
        clothes_name="blue",
        background_name="black",
        jaw=fraction(rng, 0.25 if child else 0.62 if man else 0.35, 0.12 if child else 0.16),
        face_length=float(rng.uniform(0, 0.35) if child else rng.random()),
        eye_size=float(rng.uniform(0.6, 1) if child else rng.random()),
        nose_size=float(rng.uniform(0, 0.35) if child else rng.random()),
        lips=float(rng.random()),
        brows=float(rng.uniform(0, 0.5) if child else rng.random()),
        cheeks=fraction(rng, 0.8 if child else 0.5, 0.12 if child else 0.22),
        mouth_width=fraction(rng, 0.35 if child else 0.5, 0.22),
        volume=fraction(rng, 0.48, 0.22),
        recession=random_recession(gender, style, age, rng),
        wrinkles=0.0 if child else fraction(rng, 1.35 * (age - 0.35), 0.12),
        frame_weight=float(rng.beta(1.1, 1.6)),
        parting=float(rng.uniform(-1, 1)),
        yaw=0.0,
        tilt=0.0,
        shift=(0.0, 0.0),
        scale=1.0,
        texture=int(rng.integers(1 << 30)),
        identity=int(rng.integers(1 << 30)),
    )
    return another_sitting(person, rng)

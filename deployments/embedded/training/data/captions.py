"""Captions of portraits: the service's default prompt in full, and short prompts in many wordings."""

from collections.abc import Collection

import numpy as np

from deployments.embedded.training.renderer.portrait import (
    HAIR_COLOURS,
    Age,
    Beard,
    Clothes,
    Expression,
    Gender,
    HairStyle,
    Hat,
    Portrait,
    Scene,
    pick,
)

DEFAULT_PROMPT = (
    "SFW Content, black plain background, joyous dating profile, VECTOR CARTOON ILLUSTRATION, half-body shot portrait "
    "enjoyable pleasing pleasurable nice {gender_word}, looking at camera, Relaxed, Charming, Cordial, Gracious, "
    "5 o clock shadow, 3d bitmoji avatar render, pixar, high def textures 8k, highly detailed, 3d render, "
    "award winning, no background elements"
)
GENDERED: dict[Gender, dict[Age | None, tuple[str, ...]]] = {  # None: at any age that has no words of its own
    "man": {
        None: ("man", "man", "man", "male", "guy", "gentleman"),
        "child": ("boy", "boy", "boy", "male"),
        "young": ("man", "man", "man", "male", "boy", "guy", "gentleman"),
        "old": ("man", "man", "man", "male", "gentleman", "grandfather", "grandpa"),
    },
    "woman": {
        None: ("woman", "woman", "woman", "female", "lady"),
        "child": ("girl", "girl", "girl", "female"),
        "young": ("woman", "woman", "woman", "female", "girl", "lady"),
        "old": ("woman", "woman", "woman", "female", "lady", "grandmother", "grandma"),
    },
}
NEUTRAL: dict[Age | None, tuple[str, ...]] = {None: ("person",), "child": ("child", "child", "kid", "person")}
AGED = ("boy", "girl", "child", "kid", "grandfather", "grandpa", "grandmother", "grandma")  # tell an age alone
OPENINGS = (
    "portrait of {}",
    "{}",
    "cartoon portrait of {}",
    "avatar of {}",
    "3d bitmoji avatar render of {}",
    "pixar portrait of {}",
    "vector cartoon illustration of {}",
    "half-body shot portrait of {}, looking at camera",
    "photo of {}",
    "illustration of {}",
    "drawing of {}",
    "picture of {}",
)
AGES: dict[Age, tuple[str, ...]] = {
    "child": ("young", "little", "small"),
    "young": ("young",),
    "adult": ("adult",),
    "middle-aged": ("adult", "middle-aged"),
    "old": ("old", "old", "elderly", "senior"),
}
AGE_MARKS, YEARS = (0.0, 0.1, 0.4, 0.58, 0.75, 1.0), (3.0, 12.0, 35.0, 47.0, 60.0, 85.0)  # a portrait's `age` in years
HAIR_WORDS = {
    "black": ("black", "dark"),
    "dark brown": ("dark brown", "brown", "dark", "brunette"),
    "brown": ("brown", "brunette"),
    "light brown": ("light brown", "brown"),
    "dark blond": ("dark blond", "blond", "dark blonde"),
    "blond": ("blond", "blonde"),
    "pale blond": ("pale blond", "blonde", "light blond"),
    "red": ("red", "ginger", "orange"),
    "auburn": ("auburn", "reddish brown"),
    "grey": ("grey", "gray"),
    "white": ("white", "grey"),
}
STYLE_WORDS: dict[HairStyle, tuple[str, ...]] = {
    "bald": ("bald", "bald head", "no hair"),
    "buzz": ("buzz cut", "very short hair", "shaved head"),
    "receding": ("receding hair", "thinning hair", "short hair"),
    "undercut": ("undercut", "short hair", "shaved sides"),
    "parted": ("short hair", "parted hair"),
    "quiff": ("quiff", "short hair"),
    "swept": ("swept back hair", "slicked back hair", "short hair"),
    "fringe": ("short fringe", "fringe", "bangs"),
    "pixie": ("pixie cut", "short hair"),
    "curly": ("curly hair", "curls", "short curly hair"),
    "short afro": ("short afro", "afro hair", "short curly hair"),
    "afro": ("afro", "big afro", "curly hair"),
    "bun": ("hair in a bun", "bun", "hair up"),
    "ponytail": ("ponytail", "hair in a ponytail"),
    "bob": ("bob", "bob haircut", "shoulder-length hair"),
    "side part": ("long hair", "long side-parted hair"),
    "long": ("long hair", "long straight hair", "straight hair"),
    "wavy": ("wavy hair", "long wavy hair", "long hair"),
    "braids": ("braids", "braided hair", "long braids"),
    "crew cut": ("crew cut", "short hair", "very short hair"),
    "locs": ("locs", "dreadlocks"),
    "long curly": ("long curly hair", "curly hair", "curls"),
}
BEARDS: dict[Beard, tuple[str, ...]] = {
    "none": ("clean-shaven", "no beard", "without a beard"),
    "stubble": ("stubble", "with stubble", "5 o clock shadow"),
    "moustache": ("moustache", "with a moustache", "mustache"),
    "goatee": ("goatee", "with a goatee", "small beard"),
    "full": ("beard", "with a beard", "full beard", "bearded"),
}
HATS: dict[Hat, tuple[str, ...]] = {
    "none": ("no hat", "without a hat"),
    "beanie": ("beanie", "beanie", "hat", "woolly hat", "knit cap"),
    "cap": ("cap", "cap", "hat", "baseball cap"),
    "headscarf": ("headscarf", "headscarf", "hijab"),
    "brimmed": ("hat", "hat", "brimmed hat", "sun hat", "fedora"),
}
NO_GLASSES = ("no glasses", "without glasses")
EXPRESSIONS: dict[Expression, tuple[str, ...]] = {
    "serious": ("serious", "serious", "stern", "angry", "sad"),
    "neutral": ("neutral expression", "calm", "relaxed"),
    "smiling": ("smiling", "smiling", "a gentle smile", "friendly", "charming"),
    "laughing": ("laughing", "laughing", "joyous", "big smile", "grinning", "open smile with teeth"),
    "surprised": ("surprised", "surprised", "astonished", "amazed"),
}
WINKS = ("winking", "winking", "a wink", "with one eye closed")
CLOTHES: dict[Clothes, tuple[str, ...]] = {
    "t-shirt": ("t-shirt", "shirt", "tee", "top"),
    "v-neck": ("v-neck", "v-neck t-shirt", "shirt"),
    "shirt": ("shirt", "collared shirt", "polo shirt", "clothes"),
    "hoodie": ("hoodie", "hoodie", "hooded sweatshirt", "clothes"),
    "blazer": ("blazer", "blazer", "jacket"),
    "turtleneck": ("turtleneck", "turtleneck sweater", "rollneck"),
    "dungarees": ("dungarees", "overalls"),
    "suit": ("suit", "suit", "suit and tie", "suit with a tie", "business suit"),
    "dress": ("dress", "dress", "summer dress"),
    "sweater": ("sweater", "sweater", "jumper", "pullover"),
    "lab coat": ("lab coat", "lab coat", "white coat", "doctor's coat"),  # white, over a shirt of any colour
}
PHOTOGRAPHED: tuple[Clothes, ...] = ("t-shirt", "v-neck", "shirt", "hoodie", "blazer", "turtleneck", "dungarees")
SCENES: dict[Scene, tuple[str, ...]] = {
    "beach": ("on the beach", "at the beach", "beach background", "beach", "by the sea"),
    "forest": ("in the forest", "in a forest", "forest background", "forest", "in the woods", "among trees"),
    "office": ("in the office", "in an office", "office background", "office", "at work in an office"),
    "city": ("in the city", "city background", "city", "skyline", "in front of skyscrapers"),
    "snow": ("in the snow", "snow", "snowy background", "snowy landscape", "winter"),
    "stars": ("stars", "starry sky", "under the stars", "night sky", "night sky with stars"),
}
GRADIENTS = (
    "{} to {} gradient",
    "{} to {} gradient background",
    "gradient from {} to {}",
    "{} and {} gradient background",
)
BACKGROUNDS = (
    "{} background",
    "{} plain background",
    "plain {} background",
    "on a {} background",
    "{} backdrop",
)
GARNISH = (
    "highly detailed", "award winning", "3d render", "pixar", "high def textures 8k", "looking at camera",
    "SFW Content", "no background elements", "dating profile", "cartoon", "soft light", "cordial", "gracious",
)  # fmt: skip


FORMS_OF_HAIR = ("hair",) * 5 + ("hair_style",) * 3 + ("both",) * 2
Told = Collection[str]  # fields of a Portrait that a caption must tell
NOTHING: Told = ()


def default_caption(gender_word: str) -> str:
    """The service's default prompt about a `gender_word`, such as `woman` or `person`."""
    return DEFAULT_PROMPT.format(gender_word=gender_word)


def gender_word(portrait: Portrait, rng: np.random.Generator, told: Told = NOTHING) -> str:
    """A word for the portrait's gender at its age, or in a fifth of the cases one for any, unless gender is `told`."""
    neutral = rng.random() < (0.35 if portrait.age_name == "child" else 0.2) and "gender" not in told
    words = NEUTRAL if neutral else GENDERED[portrait.gender]
    return pick(words.get(portrait.age_name, words[None]), rng)


def subject(portrait: Portrait, word: str, rng: np.random.Generator, told: Told = NOTHING) -> str:
    """The person in one phrase: "a happy old man"."""
    said = []
    if portrait.expression in ("smiling", "laughing") and rng.random() < 0.1:
        said.append("happy")
    if rng.random() < 0.1:
        said.append("nice")
    if rng.random() < 0.3 or ("age_name" in told and word not in AGED):
        years = round(float(np.interp(portrait.age, AGE_MARKS, YEARS)))
        said.append(f"{years} year old" if rng.random() < 0.15 else pick(AGES[portrait.age_name], rng))
    phrase = " ".join([*said, word])
    return f"an {phrase}" if phrase[0] in "aeiou8" or phrase.startswith("11 ") else f"a {phrase}"


def hair_told(portrait: Portrait, rng: np.random.Generator, told: Told = NOTHING) -> str:
    """Colour, style or both."""
    style = pick(STYLE_WORDS[portrait.hair_style], rng)
    if portrait.hair_style == "bald":
        return style
    distances = {name: np.linalg.norm(np.subtract(portrait.hair, rgb)) for name, rgb in HAIR_COLOURS.items()}
    colour = pick(HAIR_WORDS[min(distances, key=distances.__getitem__)], rng)
    words = {"hair": f"{colour} hair", "hair_style": style, "both": f"{colour} {style}"}
    one = [trait for trait in ("hair", "hair_style") if trait in told]
    return words[one[0] if len(one) == 1 else "both" if one else pick(FORMS_OF_HAIR, rng)]


def glasses_words(portrait: Portrait) -> tuple[str, ...]:
    """Of a person who wears some."""
    if portrait.glasses == "sun":
        return ("sunglasses", "dark glasses", "wearing sunglasses")
    return ("glasses", "wearing glasses", f"{portrait.glasses} glasses", "with glasses")


def hat_told(portrait: Portrait, rng: np.random.Generator) -> str:
    """With its colour or without it."""
    word = pick(HATS[portrait.hat], rng)
    if portrait.hat == "none":
        return word
    return pick(("with a {}", "wearing a {}"), rng).format(pick((word, f"{portrait.hat_name} {word}"), rng))


def head_told(portrait: Portrait, rng: np.random.Generator, told: Told = NOTHING) -> list[str]:
    """Phrases for hair, glasses, beard, hat and earrings, in this order: those `told`, a random part of the rest."""

    def tells(trait: str, chance: float) -> bool:
        return bool(rng.random() < chance) or trait in told

    said = []
    if tells("hair", 0.35) or "hair_style" in told:
        said.append(hair_told(portrait, rng, told))
    if tells("glasses", 0.1 if portrait.glasses == "none" else 0.6):
        said.append(pick(NO_GLASSES if portrait.glasses == "none" else glasses_words(portrait), rng))
    if portrait.gender == "man" and tells("beard", 0.12 if portrait.beard == "none" else 0.5):
        said.append(pick(BEARDS[portrait.beard], rng))
    if tells("hat", 0.03 if portrait.hat == "none" else 0.7):
        said.append(hat_told(portrait, rng))
    if portrait.earrings and rng.random() < 0.4:
        said.append(pick(("earrings", "with earrings", "wearing earrings"), rng))
    return said


def background_told(portrait: Portrait, rng: np.random.Generator) -> str:
    """The plain colour, the gradient's two, or the scene."""
    if portrait.scene == "plain":
        return pick(BACKGROUNDS, rng).format(portrait.background_name)
    if portrait.scene == "gradient":
        return pick(GRADIENTS, rng).format(portrait.background_name, portrait.second_name)
    return pick(SCENES[portrait.scene], rng)


def clothes_told(portrait: Portrait, rng: np.random.Generator) -> str:
    """The garment, mostly with its colour."""
    words = [pick(CLOTHES[portrait.clothes], rng)]
    if portrait.pattern == "striped":
        words.insert(0, "striped")
    if portrait.clothes != "lab coat" and rng.random() < 0.8:
        words.insert(0, portrait.clothes_name)
    phrase = " ".join(words)
    article = "" if phrase.endswith("s") and portrait.clothes != "dress" else "an " if phrase[0] in "aeiou" else "a "
    return pick(("{}", "{}", "wearing {}", "in {}"), rng).format(phrase if rng.random() < 0.5 else f"{article}{phrase}")


def scene_told(portrait: Portrait, rng: np.random.Generator) -> list[str]:
    """Background, expression and clothes; what no photo shows is told always, so that it is drawn only if told."""
    said = []
    if portrait.scene != "plain" or rng.random() < 0.9:
        said.append(background_told(portrait, rng))
    if portrait.winking:
        said.append(pick(WINKS, rng))
    if rng.random() < (0.2 if portrait.winking else 0.6):
        said.append(pick(EXPRESSIONS[portrait.expression], rng))
    if portrait.clothes not in PHOTOGRAPHED or portrait.pattern != "plain" or rng.random() < 0.6:
        said.append(clothes_told(portrait, rng))
    return said


def custom_caption(portrait: Portrait, rng: np.random.Generator, word: str | None = None, told: Told = NOTHING) -> str:
    """Names some of what is seen, in any order, the background nearly always; what is unnamed is left to the seed.

    The traits `told` are never left out: those in which the picture differs from the person's photo.
    """
    opening = pick(OPENINGS, rng).format(subject(portrait, word or gender_word(portrait, rng, told), rng, told))
    said = scene_told(portrait, rng) + head_told(portrait, rng, told)
    said += [pick(GARNISH, rng) for _ in range(rng.integers(0, 4))]
    rng.shuffle(said)
    parts = [opening, *said] if rng.random() < 0.7 else [*said[:1], opening, *said[1:]]
    caption = ", ".join(parts)
    return caption if rng.random() < 0.8 else caption.upper() if rng.random() < 0.2 else caption.capitalize()


UNWANTED = (
    "nsfw", "ugly", "blurry", "low quality", "worst quality", "deformed", "bad anatomy", "extra fingers", "watermark",
    "text", "logo", "duplicate", "disfigured", "out of frame", "nude", "violence", "grainy", "noisy", "cropped", "hat",
)  # fmt: skip


def unconditional_caption(rng: np.random.Generator) -> str:
    """What guidance moves away from: mostly nothing, at times a list that users give as a negative prompt."""
    if rng.random() < 0.65:
        return ""
    return ", ".join(rng.choice(UNWANTED, size=int(rng.integers(1, 8)), replace=False))

"""Captions of portraits: the service's default prompt in full, and short prompts in many wordings."""

import numpy as np

from deployments.embedded.training.renderer.portrait import HAIR_COLOURS, Age, Beard, HairStyle, Portrait, pick

DEFAULT_PROMPT = (
    "SFW Content, black plain background, joyous dating profile, VECTOR CARTOON ILLUSTRATION, half-body shot portrait "
    "enjoyable pleasing pleasurable nice {gender_word}, looking at camera, Relaxed, Charming, Cordial, Gracious, "
    "5 o clock shadow, 3d bitmoji avatar render, pixar, high def textures 8k, highly detailed, 3d render, "
    "award winning, no background elements"
)
WORDS_OF = {
    "man": ("man", "man", "man", "male", "boy", "guy", "gentleman"),
    "woman": ("woman", "woman", "woman", "female", "girl", "lady"),
}
CHILDREN = ("boy", "girl")  # words that no old person is told by
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
    "child": ("young", "little"),
    "young": ("young",),
    "adult": ("adult",),
    "middle-aged": ("adult", "middle-aged"),
    "old": ("old", "elderly", "senior"),
}
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
NO_GLASSES = ("no glasses", "without glasses")
EXPRESSIONS = {
    "serious": ("serious", "stern", "angry", "sad"),
    "neutral": ("neutral expression", "calm", "relaxed"),
    "smiling": ("smiling", "a gentle smile", "friendly", "charming"),
    "laughing": ("laughing", "joyous", "big smile", "open smile with teeth"),
    "surprised": ("surprised", "astonished", "amazed"),
}
CLOTHES = {
    "t-shirt": ("t-shirt", "shirt", "tee", "top"),
    "v-neck": ("v-neck", "v-neck sweater", "shirt"),
    "shirt": ("shirt", "collared shirt", "polo shirt", "clothes"),
    "hoodie": ("hoodie", "sweater", "clothes"),
    "blazer": ("blazer", "suit", "jacket", "clothes"),
    "turtleneck": ("turtleneck", "turtleneck sweater", "rollneck"),
    "dungarees": ("dungarees", "overalls"),
}
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


def default_caption(gender_word: str) -> str:
    """The service's default prompt about a `gender_word`, such as `woman` or `person`."""
    return DEFAULT_PROMPT.format(gender_word=gender_word)


def gender_word(portrait: Portrait, rng: np.random.Generator) -> str:
    """In a fifth of the cases `person`, else a word for the portrait's gender; old persons are not `boy` or `girl`."""
    words = [word for word in WORDS_OF[portrait.gender] if portrait.age_name != "old" or word not in CHILDREN]
    return "person" if rng.random() < 0.2 else pick(words, rng)


def subject(portrait: Portrait, word: str, rng: np.random.Generator) -> str:
    """The person in one phrase: "a happy old man"."""
    told = []
    if portrait.expression in ("smiling", "laughing") and rng.random() < 0.1:
        told.append("happy")
    if rng.random() < 0.1:
        told.append("nice")
    if rng.random() < 0.3 and (portrait.age_name in ("child", "young") or word not in CHILDREN):
        told.append(pick(AGES[portrait.age_name], rng))
    phrase = " ".join([*told, word])
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def hair_told(portrait: Portrait, rng: np.random.Generator) -> str:
    """Colour, style or both."""
    style = pick(STYLE_WORDS[portrait.hair_style], rng)
    if portrait.hair_style == "bald":
        return style
    distances = {name: np.linalg.norm(np.subtract(portrait.hair, rgb)) for name, rgb in HAIR_COLOURS.items()}
    colour = pick(HAIR_WORDS[min(distances, key=distances.__getitem__)], rng)
    return (f"{colour} hair", style, f"{colour} {style}")[rng.choice(3, p=[0.5, 0.3, 0.2])]


def glasses_words(portrait: Portrait) -> tuple[str, ...]:
    """Of a person who wears some."""
    if portrait.glasses == "sun":
        return ("sunglasses", "dark glasses", "wearing sunglasses")
    return ("glasses", "wearing glasses", f"{portrait.glasses} glasses", "with glasses")


def head_told(portrait: Portrait, rng: np.random.Generator) -> list[str]:
    """Phrases for hair, glasses, beard, hat and earrings: a random part of them, in this order."""
    told = []
    if rng.random() < 0.35:
        told.append(hair_told(portrait, rng))
    if portrait.glasses == "none":
        if rng.random() < 0.1:
            told.append(pick(NO_GLASSES, rng))
    elif rng.random() < 0.6:
        told.append(pick(glasses_words(portrait), rng))
    if portrait.gender == "man" and rng.random() < (0.12 if portrait.beard == "none" else 0.5):
        told.append(pick(BEARDS[portrait.beard], rng))
    if portrait.hat != "none" and rng.random() < 0.7:
        kind = "hat" if portrait.hat == "brimmed" else portrait.hat
        hat = pick((kind, f"{portrait.hat_name} {kind}"), rng)
        told.append(pick(("with a {}", "wearing a {}"), rng).format(hat))
    if portrait.earrings and rng.random() < 0.4:
        told.append(pick(("earrings", "with earrings", "wearing earrings"), rng))
    return told


def scene_told(portrait: Portrait, rng: np.random.Generator) -> list[str]:
    """Background, expression and clothes."""
    told = []
    if rng.random() < 0.9:
        told.append(pick(BACKGROUNDS, rng).format(portrait.background_name))
    if rng.random() < 0.6:
        told.append(pick(EXPRESSIONS[portrait.expression], rng))
    if rng.random() < 0.6:
        article = "wearing a " if rng.random() < 0.3 else ""
        told.append(f"{article}{portrait.clothes_name} {pick(CLOTHES[portrait.clothes], rng)}")
    return told


def custom_caption(portrait: Portrait, rng: np.random.Generator, word: str | None = None) -> str:
    """Names some of what is seen, in any order, the background nearly always; what is unnamed is left to the seed."""
    opening = pick(OPENINGS, rng).format(subject(portrait, word or gender_word(portrait, rng), rng))
    told = scene_told(portrait, rng) + head_told(portrait, rng)
    told += [pick(GARNISH, rng) for _ in range(rng.integers(0, 4))]
    rng.shuffle(told)
    parts = [opening, *told] if rng.random() < 0.7 else [*told[:1], opening, *told[1:]]
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

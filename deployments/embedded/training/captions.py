"""Captions of portraits: the service's default prompt whole, and short prompts in many wordings."""

import numpy as np

from deployments.embedded.training.portrait import Portrait, pick

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
OPENINGS = (
    "portrait of a {}",
    "a {}",
    "cartoon portrait of a {}",
    "avatar of a {}",
    "3d bitmoji avatar render of a {}",
    "pixar portrait of a {}",
    "vector cartoon illustration of a {}",
    "half-body shot portrait of a nice {}, looking at camera",
    "photo of a {}",
    "illustration of a young {}",
    "drawing of a {}",
    "picture of a happy {}",
)
EXPRESSIONS = {
    "serious": ("serious", "stern", "angry", "sad"),
    "neutral": ("neutral expression", "calm", "relaxed"),
    "smiling": ("smiling", "a gentle smile", "friendly", "charming"),
    "laughing": ("laughing", "joyous", "big smile", "open smile with teeth"),
}
CLOTHES = {
    "t-shirt": ("t-shirt", "shirt", "tee", "top"),
    "v-neck": ("v-neck", "v-neck sweater", "shirt"),
    "shirt": ("shirt", "collared shirt", "polo shirt", "clothes"),
    "hoodie": ("hoodie", "sweater", "clothes"),
    "blazer": ("blazer", "suit", "jacket", "clothes"),
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
    return DEFAULT_PROMPT.format(gender_word=gender_word)


def gender_word(portrait: Portrait, rng: np.random.Generator) -> str:
    return "person" if rng.random() < 0.2 else pick(WORDS_OF[portrait.gender], rng)


def custom_caption(portrait: Portrait, rng: np.random.Generator, word: str | None = None) -> str:
    """Names some of what is seen, in any order, the background nearly always; what is unnamed is left to the seed."""
    article = OPENINGS[rng.integers(len(OPENINGS))].format(word or gender_word(portrait, rng))
    told: list[str] = []
    if rng.random() < 0.9:
        told.append(pick(BACKGROUNDS, rng).format(portrait.background_name))
    if rng.random() < 0.6:
        told.append(pick(EXPRESSIONS[portrait.expression], rng))
    if rng.random() < 0.6:
        article_word = "wearing a " if rng.random() < 0.3 else ""
        told.append(f"{article_word}{portrait.clothes_name} {pick(CLOTHES[portrait.clothes], rng)}")
    if portrait.glasses != "none" and rng.random() < 0.6:
        told.append(pick(("glasses", "wearing glasses", f"{portrait.glasses} glasses", "with glasses"), rng))
    if portrait.beard in ("full", "goatee") and rng.random() < 0.5:
        told.append("beard" if portrait.beard == "full" else "goatee")
    told += [pick(GARNISH, rng) for _ in range(rng.integers(0, 4))]
    rng.shuffle(told)
    parts = [article, *told] if rng.random() < 0.7 else [*told[:1], article, *told[1:]]
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

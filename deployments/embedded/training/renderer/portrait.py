"""A person as parameters, which the renderer draws, captions describe and the face encoder predicts."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Colour = tuple[int, int, int]
HairStyle = Literal[
    "bald", "buzz", "receding", "undercut", "parted", "quiff", "swept", "fringe", "pixie", "curly", "short afro",
    "afro", "bun", "ponytail", "bob", "side part", "long", "wavy", "braids", "crew cut", "locs", "long curly",
]  # fmt: skip
Hat = Literal["none", "beanie", "cap", "headscarf", "brimmed"]
Beard = Literal["none", "stubble", "moustache", "goatee", "full"]
Glasses = Literal["none", "round", "square", "sun"]
Expression = Literal["serious", "neutral", "smiling", "laughing", "surprised"]
Clothes = Literal[
    "t-shirt", "v-neck", "shirt", "hoodie", "blazer", "turtleneck", "dungarees", "suit", "dress", "sweater", "lab coat",
]  # fmt: skip
Pattern = Literal["plain", "striped"]
Scene = Literal["plain", "gradient", "beach", "forest", "office", "city", "snow", "stars"]
Gender = Literal["man", "woman"]
Age = Literal["child", "young", "adult", "middle-aged", "old"]
FaceShape = Literal["round", "oval", "square", "long"]

HAIR_LENGTH: dict[HairStyle, float] = {
    "bald": 0.0,
    "receding": 0.15,
    "buzz": 0.2,
    "undercut": 0.35,
    "parted": 0.4,
    "quiff": 0.4,
    "swept": 0.4,
    "fringe": 0.4,
    "pixie": 0.4,
    "bun": 0.4,
    "short afro": 0.4,
    "curly": 0.45,
    "afro": 0.55,
    "bob": 0.75,
    "ponytail": 0.8,
    "side part": 1.0,
    "long": 1.0,
    "wavy": 1.0,
    "braids": 1.0,
    "crew cut": 0.3,
    "locs": 0.9,
    "long curly": 1.0,
}
AGE_ENDS: dict[Age, float] = {"child": 0.1, "young": 0.4, "adult": 0.58, "middle-aged": 0.75}
BEARD_AMOUNT: dict[Beard, float] = {"none": 0.0, "stubble": 0.4, "moustache": 0.5, "goatee": 0.7, "full": 1.0}

SKIN_RAMP: tuple[Colour, ...] = (
    (252, 222, 200),
    (246, 209, 180),
    (238, 193, 156),
    (223, 172, 130),
    (203, 148, 106),
    (179, 122, 83),
    (149, 97, 64),
    (119, 75, 50),
    (98, 62, 44),
    (80, 51, 38),
)
HAIR_COLOURS: dict[str, Colour] = {
    "black": (26, 22, 22),
    "dark brown": (52, 35, 26),
    "brown": (88, 58, 38),
    "light brown": (128, 90, 56),
    "dark blond": (168, 128, 80),
    "blond": (214, 176, 112),
    "pale blond": (234, 212, 160),
    "red": (172, 80, 36),
    "auburn": (112, 48, 32),
    "grey": (140, 138, 136),
    "white": (222, 220, 216),
}
NAMED_COLOURS: dict[str, Colour] = {
    "black": (0, 0, 0),
    "white": (250, 250, 250),
    "grey": (128, 130, 134),
    "red": (200, 40, 44),
    "blue": (44, 92, 200),
    "light blue": (150, 200, 240),
    "navy": (28, 38, 84),
    "green": (48, 146, 80),
    "yellow": (246, 206, 64),
    "orange": (240, 140, 48),
    "purple": (122, 70, 176),
    "pink": (240, 150, 184),
    "teal": (30, 140, 144),
    "beige": (226, 208, 180),
    "brown": (112, 76, 50),
}
SCENE_TONES: dict[Scene, Colour] = {  # behind the head
    "beach": (150, 210, 245), "forest": (128, 182, 116), "office": (232, 224, 210), "city": (190, 180, 190),
    "snow": (180, 204, 224), "stars": (28, 28, 74),
}  # fmt: skip
EYE_COLOURS: tuple[Colour, ...] = (
    (62, 38, 24),
    (84, 54, 30),
    (70, 110, 160),
    (92, 130, 96),
    (110, 118, 124),
    (122, 92, 50),  # hazel
)
# dark frames first: on dark skin only those that stand out are worn
FRAMES: tuple[Colour, ...] = (
    (26, 24, 28),
    (26, 24, 28),
    (104, 54, 26),
    (40, 70, 150),
    (172, 36, 46),
    (212, 172, 92),
    (222, 224, 230),
    (64, 170, 190),
)


@dataclass(frozen=True)
class Portrait:
    """Lengths are fractions from 0 to 1 unless said otherwise; angles are degrees."""

    gender: Gender
    skin: Colour
    hair: Colour
    hair_style: HairStyle
    beard: Beard
    glasses: Glasses
    glasses_colour: Colour
    hat: Hat
    hat_name: str  # of its colour
    earrings: bool
    eyes: Colour
    expression: Expression
    age: float
    clothes: Clothes
    clothes_name: str
    background_name: str
    jaw: float
    face_length: float
    eye_size: float
    nose_size: float
    lips: float
    brows: float
    cheeks: float
    mouth_width: float
    volume: float  # of the hair
    recession: float  # of the hairline
    wrinkles: float
    frame_weight: float  # of glasses: 0 is wire, 1 thick acetate
    parting: float  # -1..1
    yaw: float  # -1..1
    tilt: float
    shift: tuple[float, float]  # of the picture's side
    scale: float
    texture: int  # seed of a photo's strands
    identity: (
        int  # seed of what no trait names, the same in all sittings: a nose's exact shape, freckles, how hair falls
    )
    # what photos do not show and prompts ask for
    scene: Scene = "plain"  # in the colour `background_name`
    second_name: str = "black"  # of the colour below, where the scene is a gradient
    pattern: Pattern = "plain"  # of the clothes
    winking: bool = False  # with the right eye, on the picture's left

    @property
    def background(self) -> Colour:
        """RGB of `background_name`, or of what a scene has behind the head."""
        return SCENE_TONES.get(self.scene, NAMED_COLOURS[self.background_name])

    @property
    def hair_length(self) -> float:
        """0 is bald, 1 is below the shoulders; the same for all of a style."""
        return HAIR_LENGTH[self.hair_style]

    @property
    def beard_amount(self) -> float:
        """0 is none, 1 is a full beard; the same for all of a kind."""
        return BEARD_AMOUNT[self.beard]

    @property
    def age_name(self) -> Age:
        """A child below 0.1 (12 years), young below 0.4 (35), middle-aged from 0.58 (47), old from 0.75 (60)."""
        return next((name for name, end in AGE_ENDS.items() if self.age < end), "old")

    @property
    def face_shape(self) -> FaceShape:
        """A long face is long whatever its jaw; a square one has a broad jaw."""
        if self.face_length > 0.75:
            return "long"
        if self.jaw > 0.62:
            return "square"
        return "round" if self.face_length < 0.35 else "oval"


def jittered(colour: Colour, rng: np.random.Generator, spread: float) -> Colour:
    """One step of brightness for all channels and a smaller one for each."""
    light = rng.normal(0.0, spread)
    r, g, b = (int(np.clip(c * (1 + light) + rng.normal(0.0, spread * 40), 0, 255)) for c in colour)
    return r, g, b


def between(first: Colour, second: Colour, share: float) -> Colour:
    """Mixed channel by channel: `share` 0 is the first, 1 the second."""
    r, g, b = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return r, g, b


def brightness(colour: Colour) -> float:
    """0..255, weighted as luma of Rec. 601."""
    r, g, b = colour
    return 0.3 * r + 0.59 * g + 0.11 * b


def pick(options: list[str] | tuple[str, ...], rng: np.random.Generator) -> str:
    """One of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def redressed(person: Portrait, rng: np.random.Generator) -> Portrait:
    """The same person with other clothes, another expression and background."""
    expressions: tuple[Expression, ...] = ("serious", "neutral", "smiling", "laughing", "surprised")
    clothes: tuple[Clothes, ...] = ("t-shirt", "v-neck", "shirt", "hoodie", "blazer", "turtleneck", "dungarees")
    return replace(
        person,
        expression=expressions[rng.choice(5, p=[0.1, 0.18, 0.38, 0.27, 0.07])],
        clothes=clothes[rng.integers(len(clothes))],
        clothes_name=pick([name for name in NAMED_COLOURS if name != "beige"], rng),
        background_name=pick(list(NAMED_COLOURS), rng),
    )


def another_sitting(person: Portrait, rng: np.random.Generator) -> Portrait:
    """The same person photographed on another day: the pose changes too, the face does not."""
    return replace(
        redressed(person, rng),
        yaw=float(np.clip(rng.normal(0, 0.4), -1, 1)),
        tilt=float(np.clip(rng.normal(0, 3), -7, 7)),
        shift=(float(rng.normal(0, 0.012)), float(rng.normal(0, 0.008))),
        scale=float(rng.uniform(0.95, 1.06)),
        texture=int(rng.integers(1 << 30)),
    )


def avatar_sitting(person: Portrait, rng: np.random.Generator) -> Portrait:
    """The same person before the avatars' camera: always at one place and size, the head hardly turned."""
    return replace(
        redressed(person, rng),
        yaw=float(np.clip(rng.normal(0, 0.35), -0.8, 0.8)),
        tilt=float(np.clip(rng.normal(0, 1.5), -4, 4)),
        shift=(0.0, 0.0),
        scale=1.0,
    )


def as_gender(person: Portrait, gender: Gender, rng: np.random.Generator) -> Portrait:
    """The person drawn as the prompt's gender word asks; colours, hair length and glasses stay."""
    if gender == person.gender:
        return person
    jaw = float(np.clip(rng.normal(0.62 if gender == "man" else 0.35, 0.1), 0, 1))
    return replace(person, gender=gender, beard="none" if gender == "woman" else person.beard, jaw=jaw)

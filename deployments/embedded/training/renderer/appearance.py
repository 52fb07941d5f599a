"""The target embedding of a face: a fixed code of a portrait's traits, as a vector (512,) of length 1.

The space is written down, not learned: the face encoder learns to give a photo the code of its traits, the generator
learns to draw from codes. So either can be trained anew alone, and a vector can be read back. How long a trait's part
of the code is says how sure it is: a scale's part shrinks with doubt, a choice's is shared among its options.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from skimage.color import lab2rgb, rgb2lab

from deployments.embedded.training.renderer.portrait import (
    BEARD_AMOUNT,
    EYE_COLOURS,
    FRAMES,
    HAIR_LENGTH,
    Colour,
    Glasses,
    Hat,
    Portrait,
)

WIDTH = 512
LAB_RANGES = ((5.0, 95.0), (-12.0, 36.0), (-15.0, 55.0))
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """A number from `low` to `high` as a point of a half circle, so that every value has one length."""

    weight: float
    low: float = 0.0
    high: float = 1.0
    width = 2

    def code(self, value: float) -> Array:
        """(2,), of length `weight`; a value beyond the scale counts as its end."""
        angle = np.pi * np.clip((value - self.low) / (self.high - self.low), 0, 1)
        return self.weight * np.array([np.cos(angle), np.sin(angle)])

    def read(self, code: Array) -> float:
        """The value whose code has the direction of `code` (2,), from `low` to `high`; its length does not matter."""
        share = np.arctan2(max(code[1], 0.0), code[0]) / np.pi
        return float(self.low + (self.high - self.low) * share)


@dataclass(frozen=True)
class Choice:
    """One of some options, each with a place of its own."""

    weight: float
    options: tuple[Any, ...]

    @property
    def width(self) -> int:
        """One number for each option."""
        return len(self.options)

    def code(self, value: Any) -> Array:
        """(options,): `weight` at the option's place, all 0 for None. Raises: ValueError for an unknown option."""
        code = np.zeros(self.width)
        if value is not None:
            code[self.options.index(value)] = self.weight
        return code

    def read(self, code: Array) -> Any:
        """The option whose number in `code` (options,) is the largest."""
        return self.options[int(code.argmax())]


TRAITS: dict[str, Scale | Choice] = {
    **{f"skin {axis}": Scale(0.7, *span) for axis, span in zip("Lab", LAB_RANGES, strict=True)},
    **{f"hair {axis}": Scale(0.7, *span) for axis, span in zip("Lab", LAB_RANGES, strict=True)},
    "hair style": Choice(1.0, tuple(HAIR_LENGTH)),
    "hair length": Scale(0.4),
    "beard": Choice(0.8, tuple(BEARD_AMOUNT)),
    "glasses": Choice(0.9, get_args(Glasses)),
    "frame": Choice(0.4, tuple(dict.fromkeys(FRAMES))),
    "gender": Choice(0.6, ("man", "woman")),
    "age": Scale(0.4),
    "jaw": Scale(0.3),
    "face length": Scale(0.3),
    "brows": Scale(0.25),
    "eyes": Choice(0.35, EYE_COLOURS),
    "eye size": Scale(0.15),
    "nose": Scale(0.15),
    "lips": Scale(0.2),
    "parting": Scale(0.2),
    "hat": Choice(0.6, get_args(Hat)),
    "earrings": Choice(0.3, (True, False)),
    "cheeks": Scale(0.2),
    "mouth width": Scale(0.15),
    "wrinkles": Scale(0.25),
    "volume": Scale(0.3),
    "recession": Scale(0.25),
    "frame weight": Scale(0.25),
}
CODE_WIDTH = sum(trait.width for trait in TRAITS.values())


@cache
def basis() -> NDArray[np.float32]:
    """(CODE_WIDTH, 512), rows orthonormal; the same for ever, and not to be written to."""
    drawn = np.random.default_rng(20_26).normal(size=(WIDTH, CODE_WIDTH))
    turned, upper = np.linalg.qr(drawn)
    return np.ascontiguousarray((turned * np.sign(np.diag(upper))).T, dtype=np.float32)


def lab(colour: Colour) -> Array:
    """(3,): CIE Lab under D65 of sRGB in 0..255."""
    return np.asarray(rgb2lab(np.array(colour, dtype=np.float64)[None, None] / 255)[0, 0], dtype=np.float64)


def traits_of(person: Portrait) -> dict[str, Any]:
    """A bald head has no colour and no volume of hair, and who wears no glasses no frame."""
    skin, hair = lab(person.skin), lab(person.hair)
    bald, glasses = person.hair_style == "bald", person.glasses != "none"
    return {
        **{f"skin {axis}": value for axis, value in zip("Lab", skin, strict=True)},
        **{f"hair {axis}": None if bald else value for axis, value in zip("Lab", hair, strict=True)},
        "hair style": person.hair_style,
        "hair length": person.hair_length,
        "beard": person.beard,
        "glasses": person.glasses,
        "frame": person.glasses_colour if glasses else None,
        "gender": person.gender,
        "age": person.age,
        "jaw": person.jaw,
        "face length": person.face_length,
        "brows": person.brows,
        "eyes": person.eyes,
        "eye size": person.eye_size,
        "nose": person.nose_size,
        "lips": person.lips,
        "parting": abs(person.parting),
        "hat": person.hat,
        "earrings": person.earrings,
        "cheeks": person.cheeks,
        "mouth width": person.mouth_width,
        "wrinkles": person.wrinkles,
        "volume": None if bald else person.volume,
        "recession": None if bald else person.recession,
        "frame weight": person.frame_weight if glasses else None,
    }


def code_of(person: Portrait) -> NDArray[np.float32]:
    """(CODE_WIDTH,), about 2.6 long."""
    told = traits_of(person)
    parts = [np.zeros(trait.width) if told[name] is None else trait.code(told[name]) for name, trait in TRAITS.items()]
    return np.concatenate(parts).astype(np.float32)


def embeddings_of(persons: list[Portrait]) -> NDArray[np.float32]:
    """(n, 512), each of length 1."""
    codes = np.stack([code_of(person) for person in persons])
    return np.asarray((codes / np.linalg.norm(codes, axis=1, keepdims=True)) @ basis(), dtype=np.float32)


def read_embedding(embedding: NDArray[np.float32]) -> dict[str, Any]:
    """The traits that a vector names, with the colours as RGB besides."""
    code, place, told = basis() @ embedding, 0, {}
    for name, trait in TRAITS.items():
        told[name] = trait.read(code[place : place + trait.width].astype(np.float64))
        place += trait.width
    for part in ("skin", "hair"):
        colour = np.array([told.pop(f"{part} {axis}") for axis in "Lab"])
        told[part] = tuple((lab2rgb(colour[None, None])[0, 0] * 255).round().astype(int).tolist())
    return told

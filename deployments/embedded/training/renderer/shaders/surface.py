"""What a shader sees of a cartoon: its pixels and which part of the person each of them shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from deployments.embedded.training.renderer.backdrop import fractal
from deployments.embedded.training.renderer.parts import (
    BACKGROUND,
    BROW,
    FRAME,
    IRIS,
    LENS,
    LIPS,
    PARTS,
    SCLERA,
    TEETH,
)
from deployments.embedded.training.renderer.portrait import Colour

UNITS = 256.0  # lengths in shaders are in parts of a picture's side, of which it has so many
FINE = (FRAME, LENS, BROW, IRIS, SCLERA, LIPS, TEETH)  # parts of a pixel or two of the generator's
CLOTHES = PARTS  # and earrings: what is of the person and has no label of its own
DARK = 0.2  # luma below which a background is one on which black lines are not seen
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Parts = NDArray[np.uint8]


@dataclass(frozen=True)
class Surface:
    """Colours (n, n, 3) and alpha (n, n) in 0..1; parts (n, n): the values of `parts`, and CLOTHES."""

    colours: Array
    alpha: Array
    parts: Parts

    @classmethod
    def of(cls, picture: Image.Image, alpha: Image.Image, labels: Image.Image) -> Self:
        """Of what `render_labelled` gives."""
        opacity, parts = as_array(alpha), np.array(labels, dtype=np.uint8)
        parts[(parts == BACKGROUND) & (opacity > 0.5)] = CLOTHES
        return cls(as_array(picture), opacity, parts)

    @property
    def side(self) -> int:
        """The picture's, in pixels."""
        return len(self.parts)

    def pixels(self, units: float) -> float:
        """A length that is given in UNITS."""
        return units * self.side / UNITS

    def part(self, *parts: int) -> Mask:
        """Where one of these parts is seen."""
        return np.isin(self.parts, parts)

    def places(self) -> tuple[Array, Array]:
        """x (1, n) and y (n, 1) of the pixels' middles, in UNITS."""
        line = (np.arange(self.side, dtype=np.float32) + 0.5) * np.float32(UNITS / self.side)
        return line[None], line[:, None]


def as_array(picture: Image.Image) -> Array:
    """Bytes as 0..1."""
    return np.asarray(picture, dtype=np.float32) / 255


def as_picture(values: Array) -> Image.Image:
    """0..1 as bytes; what lies beyond is cut off."""
    return Image.fromarray((values.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def luma(colours: Array) -> Array:
    """(..., 3) -> (...): of Rec. 601."""
    return np.asarray(colours @ LUMA)


def saturated(colours: Array, factor: float) -> Array:
    """Further from the grey of the same luma by a factor; what lies beyond 0..1 is not cut off."""
    grey = luma(colours)[..., None]
    return np.asarray(grey + (colours - grey) * factor)


def colour_array(colour: Colour) -> Array:
    """(3,), in 0..1."""
    return np.array(colour, dtype=np.float32) / 255


def mixed(first: Array, second: Array, share: Array) -> Array:
    """Where the share (n, n) is 1 it is the second alone; colours are (n, n, 3) or (3,)."""
    return np.asarray(first + (second - first) * share[..., None])


def step(values: Array, edge: float | Array, width: float) -> Array:
    """0 below the edge, 1 above it, rising over a width about it."""
    return np.asarray(((values - edge) / width + 0.5).clip(0, 1), dtype=np.float32)


def blurred(values: Array, sigma: float) -> Array:
    """(n, n) or (n, n, 3), by a Gaussian of this deviation in pixels."""
    sigmas: Sequence[float] = (sigma, sigma, 0)[: values.ndim]
    return np.asarray(ndimage.gaussian_filter(values, sigmas, mode="nearest", truncate=2.5))


def blurred_within(values: Array, parts: Parts, sigma: float, chosen: Sequence[int]) -> Array:
    """Colours (n, n, 3) blurred in each of the chosen parts by itself: none runs over its edge."""
    result = values.copy()
    for part in chosen:
        inside = parts == part
        if not inside.any():
            continue
        box = ndimage.find_objects(inside.astype(np.uint8))[0]
        weight = inside[box].astype(np.float32)
        spread = blurred(values[box] * weight[..., None], sigma) / (blurred(weight, sigma)[..., None] + 1e-4)
        result[box] = np.where(inside[box][..., None], spread, result[box])
    return result


def borders(parts: Parts) -> Mask:
    """The pixels whose right or lower neighbour shows another part."""
    found = np.zeros(parts.shape, dtype=np.bool_)
    found[:, :-1] |= parts[:, :-1] != parts[:, 1:]
    found[:-1] |= parts[:-1] != parts[1:]
    return found


def few_tones(colours: Array, parts: Parts, most: Mapping[int, int]) -> Array:
    """(n, n, 3) with at most so many colours in each of these parts, by median cut and k-means; the others stay."""
    result = colours.copy()
    for part, count in most.items():
        inside = parts == part
        row = colours[inside]  # (pixels, 3)
        if count == 1 and len(row):
            result[inside] = row.mean(0)
        elif len(row):
            tones = as_picture(row[None]).quantize(count, Image.Quantize.MEDIANCUT, kmeans=2)
            result[inside] = as_array(tones.convert("RGB"))[0]
    return result


@cache
def noise(side: int, grain: float, seed: int) -> Array:
    """(side, side), always the same, of mean 0 and deviation 1, without detail finer than `grain` UNITS."""
    coarse = fractal(256, np.random.default_rng(seed), 0.5)
    smooth = blurred(coarse.astype(np.float32), grain)
    fitted = Image.fromarray(smooth / smooth.std()).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(fitted, dtype=np.float32)

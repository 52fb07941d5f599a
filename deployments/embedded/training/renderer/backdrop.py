"""Backgrounds of rendered photos: 1/f noise, grain, gradients and clutter, sometimes in skin and hair colours."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from deployments.embedded.training.renderer.population import random_hair, random_skin
from deployments.embedded.training.renderer.portrait import Colour

Field = NDArray[np.float64]


def fractal(size: int, rng: np.random.Generator, slope: float = 1.0) -> Field:
    """(size, size) noise with a spectrum of 1/f^slope, of mean 0 and deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1.0
    phases = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
    phases[0, 0] = 0.0
    field = np.fft.irfft2(phases / frequency ** (slope + 0.5), s=(size, size))
    return np.asarray(field / (field.std() + 1e-9))


def stretched_grain(
    size: int, rng: np.random.Generator, angle: float, slope: float = 0.6, length: float = 7.0
) -> Field:
    """Noise drawn out along `angle`, as strands or wood grain are; of mean 0 and deviation 1."""
    across, down = np.fft.rfftfreq(size)[None], np.fft.fftfreq(size)[:, None]
    along = (across * np.cos(angle) + down * np.sin(angle)) * length
    frequency = np.hypot(along, -across * np.sin(angle) + down * np.cos(angle))
    frequency[0, 0] = 1.0
    phases = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
    phases[0, 0] = 0.0
    field = np.fft.irfft2(phases / frequency ** (slope + 0.5), s=(size, size))
    return np.asarray(field / (field.std() + 1e-9))


def any_colour(rng: np.random.Generator) -> Colour:
    """Mostly muted; one in three is a skin's or a hair's."""
    kind = rng.random()
    if kind < 0.17:
        return random_skin(rng)
    if kind < 0.34:
        return random_hair(rng)
    colour = rng.integers(0, 256, 3).astype(np.float64)
    colour += (colour.mean() - colour) * rng.uniform(0, 1)
    r, g, b = (int(c) for c in colour)
    return r, g, b


def mixed(weight: Field, first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """`first` where the weight (size, size) is far below 0, `second` far above, half of each at 0: a logistic curve."""
    share = (1 / (1 + np.exp(-weight)))[..., None]
    return first * (1 - share) + second * share


def noise_field(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Foliage, walls, sky: two to four colours, mixed by noise."""
    picture = np.zeros((size, size, 3)) + any_colour(rng)
    for _ in range(rng.integers(1, 4)):
        slope, sharp = rng.uniform(0.4, 2.0), rng.uniform(0.5, 6)
        field = fractal(size, rng, slope) + rng.normal(0, 0.7)
        picture = mixed(field * sharp, picture, np.zeros(3) + any_colour(rng))
    return picture


def grain_field(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Wood, fabric, grass: two colours, mixed by noise drawn out along one direction; (size, size, 3) of 0..255."""
    grain = stretched_grain(size, rng, rng.uniform(0, np.pi), rng.uniform(0.3, 1.5), rng.uniform(3, 20))
    first, second = (np.zeros(3) + any_colour(rng) for _ in range(2))
    return mixed(grain * rng.uniform(0.5, 3), np.zeros((size, size, 3)) + first, second)


def gradient_field(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Four corner colours, alike in half of the cases, with a smooth transition: (size, size, 3) of 0..255."""
    corners = np.array([[any_colour(rng) for _ in range(2)] for _ in range(2)], dtype=np.uint8)
    if rng.random() < 0.5:
        corners = (corners * 0.3 + corners.mean((0, 1)) * 0.7).astype(np.uint8)
    return np.asarray(Image.fromarray(corners).resize((size, size), Image.Resampling.BILINEAR), dtype=np.float64)


def add_clutter(picture: Image.Image, rng: np.random.Generator, count: int) -> None:
    """Furniture, windows, other people: boxes, discs and bars in their own shade."""
    draw, size = ImageDraw.Draw(picture), picture.width
    for _ in range(count):
        colour = any_colour(rng)
        x, y = rng.uniform(-0.3, 1, 2) * size
        w, h = rng.uniform(0.04, 0.7, 2) * size
        kind = rng.random()
        if kind < 0.45:
            draw.rectangle((x, y, x + w, y + h), fill=colour)
        elif kind < 0.75:
            draw.ellipse((x, y, x + w, y + h), fill=colour)
        else:
            draw.line((x, y, *rng.uniform(0, size, 2)), fill=colour, width=int(rng.uniform(1, size / 12)))


def backdrop(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(size, size, 3) of 0..255, out of focus by a random amount."""
    fields = (noise_field, grain_field, gradient_field)
    base = fields[rng.choice(3, p=[0.5, 0.15, 0.35])](size, rng)
    picture = Image.fromarray(base.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.65:
        add_clutter(picture, rng, int(rng.integers(1, 10)))
    picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, size / 35))))
    if rng.random() < 0.3:
        add_clutter(picture, rng, int(rng.integers(1, 3)))
    return np.asarray(picture, dtype=np.float64) * (1 + 0.05 * rng.random() * fractal(size, rng)[..., None])

"""Light and camera of the withheld rendering: spherical harmonics, a pinhole with a focus, a sensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from loadtest.bench.reading.surfels import Numbers, Surfels, single, unit

SIDE = 384  # pixels of a photo
OVER = 2  # samples a pixel's side
DISTANCE = 9.0  # of the lens from the middle of the head
FOCAL = DISTANCE / 3.5  # 3.5 units of the plane through the head's middle are seen
FAR = 1e6
BANDS = single([np.pi, *[2 * np.pi / 3] * 3, *[np.pi / 4] * 5])  # Ramamoorthi and Hanrahan 2001
NOWHERE = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Light:
    """Sources far away, each with its direction and RGB, over an even `ambient` RGB; `wall` is on the background."""

    name: str
    ambient: tuple[float, float, float]
    sources: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]
    exposure: float = 1.0
    wall: float = 1.0

    def irradiance(self, normals: Numbers) -> Numbers:
        """(..., 3) -> RGB; 1 is what shows an albedo as it is."""
        coefficients = np.zeros((9, 3), np.float32)
        for direction, power in self.sources:
            coefficients += harmonics(unit(single(direction)))[:, None] * single(power) * BANDS[:, None] / np.pi
        return single(np.maximum(harmonics(normals) @ coefficients, 0) + single(self.ambient))


def white(level: float) -> tuple[float, float, float]:
    """The same in all channels."""
    return level, level, level


PLAIN = Light("plain", white(0.52), (((0.15, 0.45, 1.0), white(0.5)),))
LIGHTS = (
    Light("overcast", white(0.66), (((0.0, 1.0, 0.35), white(0.42)),)),
    Light("window at the left", white(0.34), (((-1.0, 0.3, 0.55), white(0.95)),)),
    Light("window at the right", white(0.34), (((1.0, 0.3, 0.55), white(0.95)),)),
    Light("noon", white(0.32), (((0.3, 1.0, 0.7), white(0.95)),)),
    Light("lamp", (0.62, 0.49, 0.33), (((0.4, 0.4, 1.0), (0.62, 0.48, 0.3)),)),
    Light("shade", (0.46, 0.54, 0.64), (((-0.4, 0.7, 1.0), (0.4, 0.48, 0.58)),)),
    Light("dim", white(0.5), (((-0.3, 0.5, 1.0), white(0.5)),), exposure=0.35),
    Light("backlit", white(0.42), (((0.5, 0.6, -0.8), white(0.8)), ((0.0, 0.2, 1.0), white(0.1))), wall=2.2),
)


def harmonics(normals: Numbers) -> Numbers:
    """(..., 3) of length 1 -> (..., 9): the real spherical harmonics of the first three bands."""
    x, y, z = normals[..., 0], normals[..., 1], normals[..., 2]
    first = 0.488603
    second = (1.092548 * x * y, 1.092548 * y * z, 0.315392 * (3 * z * z - 1), 1.092548 * x * z)
    rest = 0.546274 * (x * x - y * y)
    return np.stack([np.full_like(x, 0.282095), first * y, first * z, first * x, *second, rest], axis=-1)


@dataclass(frozen=True, slots=True)
class Exposure:
    """What each sample of the sensor sees, before any light: so one can be lit many times.

    Arrays are (h, w, ...); `seen` is False where the background shows.
    """

    seen: NDArray[np.bool_]
    depth: Numbers
    albedo: Numbers
    normal: Numbers
    tangent: Numbers
    gloss: Numbers
    hollow: Numbers  # 1 in the open, less in corners

    def lit(self, light: Light, wall: Numbers, rng: np.random.Generator) -> NDArray[np.uint8]:
        """(SIDE, SIDE, 3): the photo in front of a `wall` (h, w, 3), with the sensor's noise."""
        colour = self.albedo * light.irradiance(self.normal) * self.hollow[..., None]
        for direction, power in light.sources:
            colour += self._highlight(single(direction))[..., None] * single(power)
        scene = np.where(self.seen[..., None], colour, wall * light.irradiance(single([0, 0, 1])) * light.wall)
        picture = focused(scene, self.depth).reshape(SIDE, OVER, SIDE, OVER, 3).mean((1, 3)) * light.exposure
        picture += rng.normal(0, 0.004, picture.shape) * np.sqrt(np.maximum(picture, 0) + 0.02) * 4
        return levels(picture)

    def _highlight(self, direction: Numbers) -> Numbers:
        """Blinn's on surfaces, Kajiya and Kay's (1989) on hair."""
        half = unit(unit(direction) + single([0, 0, 1]))
        surface = np.maximum(self.normal @ half, 0) ** 24
        hair = np.sqrt(np.maximum(1 - (self.tangent @ half) ** 2, 0)) ** 60 * np.maximum(self.normal @ half, 0)
        is_hair = (self.tangent**2).sum(-1) > 0.5
        return single(self.gloss * np.where(is_hair, hair, surface) * self.hollow)


def exposed(scene: Surfels) -> Exposure:
    """Projects all points; the nearest at each sample is seen."""
    side = SIDE * OVER
    depth = DISTANCE - scene.place[:, 2]
    column = side / 2 + scene.place[:, 0] * FOCAL * side / depth
    row = side / 2 - scene.place[:, 1] * FOCAL * side / depth
    key = (depth * 1e6).astype(np.int64) << 24 | np.arange(len(depth))
    nearest = np.full(side * side, NOWHERE)
    for right, down in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = column.astype(np.int64) + right, row.astype(np.int64) + down
        inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
        np.minimum.at(nearest, (y * side + x)[inside], key[inside])
    found = nearest.reshape(side, side)
    seen = found != NOWHERE
    index = np.where(seen, found & 0xFFFFFF, 0)
    deep = np.where(seen, depth[index], DISTANCE + 3).astype(np.float32)
    return Exposure(
        seen, deep, scene.albedo[index], scene.normal[index], scene.tangent[index], scene.gloss[index], hollows(deep)
    )


def hollows(depth: Numbers) -> Numbers:
    """Screen-space ambient occlusion: darker where what is around is nearer to the camera."""
    shade = np.zeros_like(depth)
    for reach, much in ((6, 1.6), (20, 0.5)):
        around = zoom(gaussian_filter(depth[::4, ::4], reach / 4), 4, order=1)
        shade += much * np.clip(depth - around, 0, 0.25)
    return np.asarray(1 / (1 + 1.4 * shade), np.float32)


def focused(scene: Numbers, depth: Numbers) -> Numbers:
    """Sharp at the face, softer before and behind it."""
    circle = np.clip((np.abs(depth - (DISTANCE - 0.7)) - 0.5) * 0.5, 0, 1)[..., None]
    soft = np.stack([gaussian_filter(scene[..., channel], 2.4) for channel in range(3)], axis=-1)
    return np.asarray(scene + (soft - scene) * circle, np.float32)


def levels(picture: Numbers) -> NDArray[np.uint8]:
    """Linear RGB -> sRGB bytes; what is too bright is white."""
    clear = np.clip(picture, 0, 1)
    encoded = np.where(clear <= 0.0031308, clear * 12.92, 1.055 * clear ** (1 / 2.4) - 0.055)
    return (encoded * 255).round().astype(np.uint8)


def turn_of(yaw: float, pitch: float, roll: float) -> Numbers:
    """(3, 3) of angles in degrees: to the right of the picture, up, clockwise."""
    (a, b, c) = np.radians([yaw, -pitch, -roll])
    about_y = [[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]
    about_x = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    about_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    return single(np.array(about_z) @ np.array(about_x) @ np.array(about_y))


def noise(shape: tuple[int, int], cells: Sequence[int], rng: np.random.Generator) -> Numbers:
    """(h, w) of about -1 to 1: random grids of some numbers of cells, smoothly enlarged, the finer the fainter."""
    total = np.zeros(shape, np.float32)
    for octave, count in enumerate(cells):
        coarse = rng.uniform(-1, 1, (count, count)).astype(np.float32)
        total += _stretching(shape[0], count) @ coarse @ _stretching(shape[1], count).T / 2**octave
    return total


@cache
def _stretching(size: int, count: int) -> Numbers:
    """(size, count): the weights that interpolate `count` numbers to `size`, linearly."""
    at = np.linspace(0, count - 1, size)
    return single(np.maximum(1 - np.abs(at[:, None] - np.arange(count)), 0))


def wall_of(colour: Numbers, rng: np.random.Generator) -> Numbers:
    """(h, w, 3): something out of focus behind the person."""
    side = SIDE * OVER // 8
    cloud = np.stack([noise((side, side), (2, 5), rng) for _ in range(3)], axis=-1)
    blurred = gaussian_filter(colour * (1 + 0.35 * cloud) + 0.05, (3, 3, 0))
    return np.asarray(zoom(np.clip(blurred, 0, 1), (8, 8, 1), order=1), np.float32)

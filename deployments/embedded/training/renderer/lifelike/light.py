"""The light of a photo: one lamp with soft cast shadows, a fill, and what both give back."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter, zoom

from deployments.embedded.training.renderer.lifelike.canvas import Canvas
from deployments.embedded.training.renderer.lifelike.grid import SIDE, UNIT, Field

WRAP = np.array([0.42, 0.22, 0.16], dtype=np.float32)  # light travels under the skin, red the farthest
COARSE = 2  # shadows are computed at half of the canvas


@dataclass(frozen=True)
class Light:
    """Directions point towards the lamps: right, down, camera."""

    towards: NDArray[np.float64]  # (3,) of length 1
    key: Field  # (3,) colour times strength
    sky: Field  # (3,): from above
    ground: Field  # (3,): from below
    side: Field  # (3,): from the right minus from the left
    soft: float  # 0: a hard shadow


def coloured(rng: np.random.Generator, spread: float) -> Field:
    """(3,) about 1: warmer or colder, a little green or magenta."""
    warm, green = rng.normal(0, spread), rng.normal(0, spread * 0.3)
    return np.asarray(np.exp([warm, green, -warm]), dtype=np.float32)


def random_light(rng: np.random.Generator) -> Light:
    """From flat clouds to a low lamp at the side; mostly from above the camera."""
    aside, up = float(np.clip(rng.normal(0, 0.65), -1.7, 1.7)), float(np.clip(rng.normal(0.5, 0.35), -0.5, 1.3))
    towards = np.array([np.sin(aside) * np.cos(up), -np.sin(up), np.cos(aside) * np.cos(up)])
    share = float(rng.beta(1.5, 1.9)) * 0.8 + 0.08  # of the lamp in all light
    lean = rng.normal(0, 0.12)
    fill = (1 - share) * coloured(rng, 0.08)
    return Light(
        towards=towards / np.linalg.norm(towards),
        key=np.float32(share * 1.25) * coloured(rng, 0.09),
        sky=fill * np.float32(1 + rng.uniform(0, 0.5)),
        ground=fill * np.float32(rng.uniform(0.3, 1.0)),
        side=(coloured(rng, 0.12) * np.float32(lean * (1 - share))).astype(np.float32),
        soft=float(rng.uniform(0.0, 1.0)),
    )


def plain_light(rng: np.random.Generator) -> Light:
    """A soft lamp before the face and much fill, without a tint."""
    towards = np.array([rng.uniform(-0.6, 0.6), -0.5, 1.0])
    white = np.ones(3, dtype=np.float32)
    fill = np.float32(0.6) * white
    return Light(
        towards / np.linalg.norm(towards), np.float32(0.5) * white, fill, np.float32(0.8) * fill, 0 * fill, 1.0
    )


def normals(z: Field) -> Field:
    """(SIDE, SIDE, 3) of length 1."""
    down, across = np.gradient(z * np.float32(UNIT))
    down, across = np.clip(down, -4, 4), np.clip(across, -4, 4)
    length = np.sqrt(1 + down * down + across * across)
    return np.stack([-across / length, -down / length, 1 / length], -1).astype(np.float32)


def cast_shadow(z: Field, light: Light) -> Field:
    """(SIDE, SIDE), 1 where the lamp is seen: along the way to it, how far other parts stand above the ray."""
    small = z[::COARSE, ::COARSE]
    x, y, up = light.towards
    flat = float(np.hypot(x, y))
    if flat < 0.05:
        return np.ones_like(z)
    blocked = np.zeros_like(small)
    for reach in np.array([2, 3, 4, 6, 8, 11, 15, 20, 26, 34, 44]) * 1.0:
        column, row = round(x / flat * reach), round(y / flat * reach)
        rise = reach * COARSE / UNIT * max(up, 0.05) / flat
        over = shifted(small, row, column) - small - rise
        blocked = np.maximum(blocked, over / (0.02 + (0.05 + 0.1 * light.soft) * reach * COARSE / UNIT))
    lit = 1 - np.clip(blocked, 0, 1)
    lit = gaussian_filter(lit, 0.8 + 2.0 * light.soft)
    return np.asarray(zoom(lit, COARSE, order=1)[:SIDE, :SIDE], dtype=np.float32)


def shifted(field: Field, rows: int, columns: int) -> Field:
    """What lies `rows` below and `columns` to the right of each pixel; beyond the canvas nothing stands."""
    moved = np.zeros_like(field)
    height, width = field.shape
    to_r, to_c = slice(max(0, -rows), height - max(0, rows)), slice(max(0, -columns), width - max(0, columns))
    from_r, from_c = slice(max(0, rows), height - max(0, -rows)), slice(max(0, columns), width - max(0, -columns))
    moved[to_r, to_c] = field[from_r, from_c]
    return moved


def hollow(z: Field) -> Field:
    """(SIDE, SIDE), up to 1: less of the sky is seen where the surroundings stand higher."""
    small = np.ascontiguousarray(z[::COARSE, ::COARSE])
    depth = sum(np.clip(uniform_filter(small, size) - small, 0, 0.25) for size in (7, 17, 33))
    return np.asarray(zoom(np.exp(-2.6 * depth), COARSE, order=1), dtype=np.float32)


def lit(canvas: Canvas, bumps: Field, light: Light, rng: np.random.Generator) -> Field:
    """(SIDE, SIDE, 3): what the camera receives, in linear light, 1 being white in full light."""
    towards = normals(canvas.z + bumps * canvas.skin)
    lamp = light.towards.astype(np.float32)
    facing = towards @ lamp
    shadow = cast_shadow(gaussian_filter(canvas.z, 0.7), light)
    wrap = WRAP * canvas.skin[..., None] * np.float32(rng.uniform(0.5, 1.2))
    direct = np.clip((facing[..., None] + wrap) / (1 + wrap), 0, 1)
    soft_shadow = np.stack([shadow ** (1 - w) for w in (0.3, 0.08, 0.0)], -1)
    strand = strand_light(canvas.strand, lamp, facing)
    is_hair = np.clip(np.linalg.norm(canvas.strand, axis=-1) * 2, 0, 1)[..., None]
    direct = direct * (1 - is_hair) + strand[..., None] * is_hair
    up = (towards[..., 1:2] + 1) / 2
    ambient = light.sky * (1 - up) + light.ground * up + light.side * towards[..., :1]
    ambient = ambient * hollow(canvas.z)[..., None]
    received = light.key * direct * soft_shadow + ambient.clip(0)
    halfway = lamp + np.array([0, 0, 1], dtype=np.float32)
    mirrored = np.clip(towards @ (halfway / np.linalg.norm(halfway)), 0, 1)
    broad, sharp = mirrored**9, mirrored**42
    shine = canvas.gloss * (0.10 * broad + 0.30 * sharp) * shadow
    band = is_hair[..., 0] * canvas.gloss * strand_shine(canvas.strand, lamp) * (0.35 + 0.65 * shadow)
    sheen = band[..., None] * (0.25 + 1.5 * canvas.colour)
    white = (
        (shine * (1 - is_hair[..., 0]))[..., None] * light.key * 1.2 + sheen * light.key + canvas.glow[..., None] * 0.8
    )
    return np.asarray(canvas.colour * received + white, dtype=np.float32)


def strand_light(strand: Field, lamp: Field, facing: Field) -> Field:
    """Diffuse light on hair (Kajiya and Kay 1989), dimmed on the side of the head that faces away."""
    along = strand @ lamp
    return np.asarray(np.sqrt(np.clip(1 - along**2, 0, 1)) * np.clip(0.35 + 0.65 * facing, 0.06, 1), dtype=np.float32)


def strand_shine(strand: Field, lamp: Field) -> Field:
    """The sheen of hair: bright where the strands lie across the halfway vector."""
    halfway = lamp + np.array([0, 0, 1], dtype=np.float32)
    along = strand @ (halfway / np.linalg.norm(halfway))
    return np.asarray(np.clip(1 - along**2, 0, 1) ** 14, dtype=np.float32)

"""Drawing with Pillow: flat shapes through splines, soft shading computed on a coarse grid."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from deployments.embedded.training.portrait import Colour, Portrait, between

UNITS = 256  # the drawing's own coordinates
ZOOM = 1.15  # of the figure on the canvas
GRID = 128  # shading is computed on GRID x GRID cells and stretched
FACE_X, FACE_Y = 128.0, 117.0  # where the head is drawn
Array = NDArray[np.float64]
Points = list[tuple[float, float]]

_cells = (np.arange(GRID) + 0.5) * (UNITS / GRID)
GRID_X, GRID_Y = np.meshgrid(_cells, _cells)


@dataclass(frozen=True)
class Look:
    """What tells a cartoon from a photo-like picture of one person."""

    eye_scale: float = 1.0
    contrast: float = 1.0
    light: tuple[float, float] = (-0.5, -0.6)
    strands: float = 1.0
    outline: float = 1.0


CARTOON = Look()


def spline(points: Points, steps: int = 8) -> Points:
    """Closed Catmull-Rom curve through the points."""
    p1 = np.asarray(points, dtype=np.float64)
    p0, p2, p3 = np.roll(p1, 1, axis=0), np.roll(p1, -1, axis=0), np.roll(p1, -2, axis=0)
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = (p[:, None, :] for p in (p0, p1, p2, p3))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return [(float(x), float(y)) for x, y in curve.reshape(-1, 2)]


def mirrored(right: Points) -> Points:
    """Right half from the top to the bottom, offsets from the middle line -> the closed outline."""
    return right + [(-x, y) for x, y in reversed(right) if abs(x) > 1e-6]


def bump(x: float, y: float, wide: float, high: float) -> Array:
    """Gaussian hill on the shading grid."""
    return np.asarray(np.exp(-(((GRID_X - x) / wide) ** 2) - ((GRID_Y - y) / high) ** 2))


def tinted(colour: Colour, light: Array, warmth: float = 0.25) -> Image.Image:
    """A colour under a light field (1 is neutral); shadows turn warm."""
    power = np.array([1.0, 1.0 + 0.6 * warmth, 1.0 + warmth])
    level = np.clip(light, 0.05, 2.5)[..., None]
    dark = np.asarray(colour) * np.minimum(level, 1.0) ** power
    white = 255 - dark
    pixels = dark + white * np.clip(level - 1.0, 0, 1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


class Sketch:
    """A canvas at twice the asked size, with the person's alpha kept beside the picture."""

    def __init__(self, portrait: Portrait, size: int, look: Look) -> None:
        self.person = portrait
        self.look = look
        self.side = size * 2
        self.unit = self.side / UNITS
        self.picture = Image.new("RGB", (self.side, self.side), portrait.background)
        self.alpha = Image.new("L", (self.side, self.side), 0)
        self.rng = np.random.default_rng(portrait.texture)
        angle = np.deg2rad(portrait.tilt)
        self._turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def place(self, points: Points, head: bool = True) -> Points:
        """Drawing coordinates -> canvas pixels; what belongs to the head tilts about the neck."""
        xy = np.asarray(points, dtype=np.float64)
        if head:
            xy = (xy - (128, 172)) @ self._turn.T + (128, 172)
        dx, dy = self.person.shift
        xy = (xy - (128, 190)) * (ZOOM * self.person.scale) + (128 + dx * UNITS, 190 + dy * UNITS)
        return [(float(x), float(y)) for x, y in xy * self.unit]

    def mask(self, *shapes: Points, head: bool = True) -> Image.Image:
        mask = Image.new("L", (self.side, self.side), 0)
        draw = ImageDraw.Draw(mask)
        for shape in shapes:
            draw.polygon(self.place(shape, head), fill=255)
        return mask

    def fill(self, mask: Image.Image, paint: Image.Image | Colour, solid: bool = True) -> None:
        if isinstance(paint, Image.Image):
            paint = paint.resize((self.side, self.side), Image.Resampling.BILINEAR)
            self.picture.paste(paint, (0, 0), mask)
        else:
            self.picture.paste(paint, (0, 0, self.side, self.side), mask)
        if solid:
            self.alpha = ImageChops.lighter(self.alpha, mask)

    def shape(self, points: Points, colour: Colour, opacity: float = 1.0) -> None:
        """A small flat shape on the head."""
        if opacity >= 1.0:
            ImageDraw.Draw(self.picture).polygon(self.place(points), fill=colour)
        else:
            mask = self.mask(points).point([round(i * opacity) for i in range(256)])
            self.fill(mask, colour, solid=False)

    def shape_body(self, points: Points, colour: Colour) -> None:
        ImageDraw.Draw(self.picture).polygon(self.place(points, head=False), fill=colour)

    def stroke(self, points: Points, colour: Colour, width: float, head: bool = True) -> None:
        placed = self.place(points, head)
        pixels = max(1, round(width * self.unit * ZOOM * self.person.scale))
        draw = ImageDraw.Draw(self.picture)
        draw.line(placed, fill=colour, width=pixels, joint="curve")
        for x, y in (placed[0], placed[-1]):
            draw.ellipse((x - pixels / 2, y - pixels / 2, x + pixels / 2, y + pixels / 2), fill=colour)

    def soft(self, mask: Image.Image, radius: float, opacity: float) -> Image.Image:
        small = mask.resize((GRID, GRID), Image.Resampling.BILINEAR)
        small = small.filter(ImageFilter.GaussianBlur(radius * GRID / UNITS))
        table = [round(i * opacity) for i in range(256)]
        return small.point(table).resize((self.side, self.side), Image.Resampling.BILINEAR)


def ellipse(x: float, y: float, wide: float, high: float, count: int = 20) -> Points:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return [(float(x + wide * np.cos(a)), float(y + high * np.sin(a))) for a in angles]


def arc(x: float, y: float, wide: float, high: float, start: float, end: float, count: int = 12) -> Points:
    angles = np.deg2rad(np.linspace(start, end, count))
    return [(float(x + wide * np.cos(a)), float(y + high * np.sin(a))) for a in angles]


def shifted(points: Points, x: float, y: float) -> Points:
    return [(px + x, py + y) for px, py in points]


def darker(colour: Colour, share: float) -> Colour:
    return between(colour, (10, 6, 8), share)


def lighter(colour: Colour, share: float) -> Colour:
    return between(colour, (255, 250, 244), share)


def smooth(points: Points, steps: int = 6) -> Points:
    """Open curve through the points."""
    padded = [points[0], *points, points[-1]]
    out: Points = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for t in np.linspace(0, 1, steps, endpoint=False):
            out.append(
                tuple(  # type: ignore[arg-type]
                    float(
                        0.5
                        * (2 * q + (r - p) * t + (2 * p - 5 * q + 4 * r - s) * t**2 + (3 * q - p - 3 * r + s) * t**3)
                    )
                    for p, q, r, s in zip(a, b, c, d, strict=True)
                )
            )
    return [*out, points[-1]]


def light_field(sketch: Sketch, x: float, y: float, wide: float, high: float, depth: float) -> Array:
    """Lambert-like shading of an egg: bright towards the light, dark at the rim."""
    u, v = (GRID_X - x) / wide, (GRID_Y - y) / high
    radius = np.sqrt(u**2 + v**2)
    lx, ly = sketch.look.light
    field = 1.0 + depth * (0.32 * (u * lx + v * ly) - 0.55 * np.clip(radius - 0.45, 0, 1.2) ** 1.6)
    return np.asarray(field)

"""Drawing with Pillow: flat shapes through splines, soft shading computed on a coarse grid."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from deployments.embedded.training.renderer.parts import BACKGROUND
from deployments.embedded.training.renderer.portrait import Colour, Portrait, between, brightness

UNITS = 256  # the drawing's own coordinates
ZOOM = 1.15  # of a photo's figure on the canvas
GRID = 96  # shading is computed on GRID x GRID cells and stretched
FACE_X, FACE_Y = 128.0, 117.0  # where a photo's head is drawn
CARTOON_Y = 104.0  # where a cartoon's is
THINNEST = 4.0  # line of a cartoon: one pixel of the generator's picture
DARKEST_HAIR = 36.0  # brightness of a cartoon's black hair
OVER_HALF = [255 * (value > 127) for value in range(256)]
Array = NDArray[np.float32]
Points = list[tuple[float, float]]

_cells = (np.arange(GRID, dtype=np.float32) + 0.5) * (UNITS / GRID)
GRID_X, GRID_Y = np.meshgrid(_cells, _cells)


@dataclass(frozen=True)
class Look:
    """What tells a cartoon from a flat drawing in human proportions, and one such drawing from another."""

    cartoon: bool = False
    eye_scale: float = 1.0
    contrast: float = 1.0
    light: tuple[float, float] = (-0.5, -0.6)
    strands: float = 1.0


CARTOON = Look(cartoon=True)


def closed(points: NDArray[np.float64], steps: int) -> Points:
    """The closed Catmull-Rom curve through the points (n, 2), `steps` points to a piece."""
    p0, p2, p3 = np.roll(points, 1, axis=0), np.roll(points, -1, axis=0), np.roll(points, -2, axis=0)
    return catmull_rom(p0, points, p2, p3, steps)


def catmull_rom(
    p0: NDArray[np.float64], p1: NDArray[np.float64], p2: NDArray[np.float64], p3: NDArray[np.float64], steps: int
) -> Points:
    """The pieces from each of p1 to each of p2, (n, 2) each."""
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = (p[:, None, :] for p in (p0, p1, p2, p3))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return [(x, y) for x, y in curve.reshape(-1, 2).tolist()]


def spline(points: Points, steps: int = 8) -> Points:
    """Closed curve through the points."""
    return closed(np.asarray(points, dtype=np.float64), steps)


def smooth(points: Points, steps: int = 6) -> Points:
    """Open curve through the points."""
    p = np.asarray([points[0], *points, points[-1]], dtype=np.float64)
    return [*catmull_rom(p[:-3], p[1:-2], p[2:-1], p[3:], steps), points[-1]]


def mirrored(right: Points) -> Points:
    """Right half from the top to the bottom, offsets from the middle line -> the closed outline."""
    return right + flipped([point for point in reversed(right) if abs(point[0]) > 1e-6])


def flipped(points: Points) -> Points:
    """Mirrored in the middle line x = 0, in the same order."""
    return [(-x, y) for x, y in points]


def shifted(points: Points, x: float, y: float) -> Points:
    """All points moved by (x, y)."""
    return [(px + x, py + y) for px, py in points]


def ellipse(x: float, y: float, wide: float, high: float, count: int = 24) -> Points:
    """`count` points of an ellipse with the half axes `wide` and `high`; the first is not repeated at the end."""
    return arc(x, y, wide, high, 0, 360 * (1 - 1 / count), count)


def arc(x: float, y: float, wide: float, high: float, start: float, end: float, count: int = 12) -> Points:
    """`count` points of an ellipse with half axes `wide` and `high`, from one angle to another: degrees, clockwise."""
    angles = np.deg2rad(np.linspace(start, end, count))
    return list(zip((x + wide * np.cos(angles)).tolist(), (y + high * np.sin(angles)).tolist(), strict=True))


def bump(x: float, y: float, wide: float, high: float) -> Array:
    """Gaussian hill on the shading grid."""
    return np.asarray(np.exp(-(((GRID_X - x) / wide) ** 2) - ((GRID_Y - y) / high) ** 2), dtype=np.float32)


def tinted(colour: Colour, light: Array, warmth: float = 0.25) -> Image.Image:
    """A colour under a light field (1 is neutral); shadows turn warm."""
    power = np.array([1.0, 1.0 + 0.6 * warmth, 1.0 + warmth], dtype=np.float32)
    level = np.clip(light, 0.05, 2.5)[..., None]
    dark = np.asarray(colour, dtype=np.float32) * np.exp(power * np.log(np.minimum(level, 1.0)))
    pixels = dark + (255 - dark) * np.clip(level - 1.0, 0, 1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def darker(colour: Colour, share: float) -> Colour:
    """Mixed with nearly black; `share` 1 is that alone."""
    return between(colour, (10, 6, 8), share)


def shaded(colour: Colour, share: float) -> Colour:
    """Skin in a soft shadow: darker and warmer."""
    r, g, b = colour
    return round(r * (1 - 0.66 * share)), round(g * (1 - share)), round(b * (1 - share))


def lighter(colour: Colour, share: float) -> Colour:
    """Mixed with a warm white; `share` 1 is that alone."""
    return between(colour, (255, 250, 244), share)


class Sketch:
    """A canvas at twice the asked size, with the person's alpha kept beside the picture."""

    def __init__(self, portrait: Portrait, size: int, look: Look) -> None:
        self.person = portrait
        self.look = look
        self.side = size * 2
        self.zoom = (1.0 if look.cartoon else ZOOM) * portrait.scale
        self.face_y = CARTOON_Y if look.cartoon else FACE_Y
        self.skull_size = (1.0, 1.0)  # against a photo's, across and down; a cartoon's figure has its own
        self.unit = self.side / UNITS
        self.picture = Image.new("RGB", (self.side, self.side), portrait.background)
        self.alpha = Image.new("L", (self.side, self.side), 0)
        self.labels = Image.new("L", (self.side, self.side), BACKGROUND)
        self.part = BACKGROUND  # what is being drawn, a value of `labels`
        self.rim = Image.new("L", (self.side, self.side), 0)  # how much of a rim light each pixel takes
        angle = np.deg2rad(portrait.tilt)
        self._turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    @property
    def hair(self) -> Colour:
        """A cartoon's black hair is not quite black, so that its shape reads on a black background."""
        r, g, b = self.person.hair
        lift = max(0, round(DARKEST_HAIR - brightness(self.person.hair))) if self.look.cartoon else 0
        return r + lift, g + lift, b + lift

    def skull(self, points: Points) -> Points:
        """Offsets from the face's centre, the skull being 85 wide and 117 high -> drawing coordinates."""
        wide, high = self.skull_size
        return [(FACE_X + x * wide, self.face_y + y * high) for x, y in points]

    def feature_x(self, x: float) -> float:
        """Features slide sideways as the head turns, the far side less."""
        yaw = self.person.yaw
        return FACE_X + x * (1 - 0.06 * abs(yaw)) + (7.0 if self.look.cartoon else 5.0) * yaw

    def place(self, points: Points, head: bool = True) -> Points:
        """Drawing coordinates -> canvas pixels; what belongs to the head tilts about the neck."""
        xy = np.asarray(points, dtype=np.float64)
        if head:
            xy = (xy - (128, 172)) @ self._turn.T + (128, 172)
        dx, dy = self.person.shift
        xy = (xy - (128, 190)) * self.zoom + (128 + dx * UNITS, 190 + dy * UNITS)
        return [(x, y) for x, y in (xy * self.unit).tolist()]

    def mask(self, *shapes: Points, head: bool = True) -> Image.Image:
        """White inside of any of the outlines, which are closed by themselves; `head` False: it does not tilt."""
        mask = Image.new("L", (self.side, self.side), 0)
        draw = ImageDraw.Draw(mask)
        for shape in shapes:
            draw.polygon(self.place(shape, head), fill=255)
        return mask

    def line_mask(self, *lines: Points, width: float, head: bool = True) -> Image.Image:
        """White on open lines with round ends; `width` in drawing units, for a cartoon at least THINNEST."""
        mask = Image.new("L", (self.side, self.side), 0)
        draw = ImageDraw.Draw(mask)
        for line in lines:
            self._line(draw, self.place(line, head), 255, width)
        return mask

    def fill(self, mask: Image.Image, paint: Image.Image | Colour, solid: bool = True, part: int | None = None) -> None:
        """Paints under the mask; a picture as `paint` is of the shading grid. `solid` adds the mask to the alpha.

        What is solid, or names a `part`, is labelled.
        """
        box = mask.getbbox()
        if box is None:
            return
        cut = mask.crop(box)
        if isinstance(paint, Image.Image):
            cells = GRID / self.side
            where = (box[0] * cells, box[1] * cells, box[2] * cells, box[3] * cells)
            paint = paint.resize(cut.size, Image.Resampling.BILINEAR, where)
            self.picture.paste(paint, box[:2], cut)
        else:
            self.picture.paste(paint, box, cut)
        if solid or part is not None:
            self.labels.paste(self.part if part is None else part, box, cut.point(OVER_HALF))
        if solid:
            self.alpha.paste(255, box, cut)

    def shape(self, points: Points, colour: Colour, head: bool = True) -> None:
        """A small flat shape on the person."""
        placed = self.place(points, head)
        ImageDraw.Draw(self.picture).polygon(placed, fill=colour)
        ImageDraw.Draw(self.alpha).polygon(placed, fill=255)
        ImageDraw.Draw(self.labels).polygon(placed, fill=self.part)

    def stroke(self, points: Points, colour: Colour, width: float, head: bool = True) -> None:
        """An open line with round ends on the person; `width` as in `line_mask`."""
        placed = self.place(points, head)
        self._line(ImageDraw.Draw(self.picture), placed, colour, width)
        self._line(ImageDraw.Draw(self.alpha), placed, 255, width)
        self._line(ImageDraw.Draw(self.labels), placed, self.part, width)

    def _line(self, draw: ImageDraw.ImageDraw, placed: Points, colour: Colour | int, width: float) -> None:
        if self.look.cartoon:
            width = max(width, THINNEST)
        pixels = max(1, round(width * self.unit * self.zoom))
        draw.line(placed, fill=colour, width=pixels, joint="curve")
        for x, y in (placed[0], placed[-1]):
            half = (pixels - 1) / 2
            draw.ellipse((x - half, y - half, x + half, y + half), fill=colour)

    def shrunk(self, size: int) -> tuple[Image.Image, Image.Image, Image.Image]:
        """Picture, alpha and labels of `size` pixels to a side."""
        return (
            self.picture.resize((size, size), Image.Resampling.BOX),
            self.alpha.resize((size, size), Image.Resampling.BOX),
            self.labels.resize((size, size), Image.Resampling.NEAREST),
        )

    def soft(self, mask: Image.Image, radius: float, opacity: float) -> Image.Image:
        """The mask times `opacity`, blurred by `radius` drawing units on the shading grid."""
        small = mask.resize((GRID, GRID), Image.Resampling.BOX)
        small = small.filter(ImageFilter.GaussianBlur(radius * GRID / UNITS))
        return faded(small, opacity).resize((self.side, self.side), Image.Resampling.BILINEAR)

    def soften(self, mask: Image.Image, colour: Colour, radius: float, opacity: float, within: Image.Image) -> None:
        """A blurred patch of colour that stays within another mask."""
        self.fill(overlap(self.soft(mask, radius, opacity), within), colour, solid=False)

    def take_rim_light(self, mask: Image.Image, colour: Colour) -> None:
        """What lies under the mask is lit along its outer edge, the more the darker it is."""
        box = mask.getbbox()
        if box is not None:
            share = (0.85 - 0.75 * brightness(colour) / 255) * (1 - brightness(self.person.background) / 255) ** 1.5
            self.rim.paste(round(255 * share), box, mask.crop(box))


def overlap(mask: Image.Image, other: Image.Image) -> Image.Image:
    """The product of two masks; takes little time where the first is small."""
    product = Image.new("L", mask.size, 0)
    box = mask.getbbox()
    if box is not None:
        product.paste(ImageChops.multiply(mask.crop(box), other.crop(box)), box[:2])
    return product


def faded(mask: Image.Image, opacity: float) -> Image.Image:
    """The mask times `opacity`, 0..1."""
    return mask.point([round(i * opacity) for i in range(256)])


def light_field(sketch: Sketch, x: float, y: float, wide: float, high: float, depth: float) -> Array:
    """Lambert-like shading of an egg: bright towards the light, dark at the rim."""
    u, v = (GRID_X - x) / wide, (GRID_Y - y) / high
    radius = np.sqrt(u**2 + v**2)
    lx, ly = sketch.look.light
    field = 1.0 + depth * (0.32 * (u * lx + v * ly) - 0.55 * np.clip(radius - 0.45, 0, 1.2) ** 1.6)
    return np.asarray(field, dtype=np.float32)

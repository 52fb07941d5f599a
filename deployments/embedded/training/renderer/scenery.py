"""What is behind a cartoon: a plain colour, a gradient or a scene of a few large, soft shapes.

The generator's pictures have 64 x 64 pixels, four drawing units each, and the figure hides the middle: a scene is told
by what stands on its left and right.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from deployments.embedded.training.renderer.drawing import UNITS, Points, ellipse, lighter, smooth, spline
from deployments.embedded.training.renderer.portrait import NAMED_COLOURS, Colour, Portrait, Scene, between

SOFTNESS = 1.0  # blur of all scenes, in drawing units
Rows = list[tuple[float, Colour]]  # heights in drawing units, from the top, and the colour there


class Stage:
    """The canvas of one scene; coordinates are drawing units."""

    def __init__(self, side: int, sky: Rows, seed: int) -> None:
        self.unit = side / UNITS
        self.rng = np.random.default_rng(seed)
        self.picture = shaded_rows(side, sky)
        self._draw = ImageDraw.Draw(self.picture)

    def shape(self, points: Points, colour: Colour) -> None:
        """A flat polygon."""
        self._draw.polygon([(x * self.unit, y * self.unit) for x, y in points], fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """A flat rectangle."""
        self.shape([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """A flat circle."""
        self.shape(ellipse(x, y, radius, radius, 20), colour)


def shaded_rows(side: int, rows: Rows) -> Image.Image:
    """(side, side): rows of one colour each, which goes over smoothly from one given height to the next."""
    heights = (np.arange(side) + 0.5) * (UNITS / side)
    given = [height for height, _ in rows]
    channels = [np.interp(heights, given, [colour[channel] for _, colour in rows]) for channel in range(3)]
    column = np.stack(channels, -1).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(column[:, None], (side, side, 3))))


def draw_scene(portrait: Portrait, side: int) -> Image.Image:
    """The background of a portrait, (side, side) RGB; its `texture` is the seed of what lies where."""
    if portrait.scene == "plain":
        return Image.new("RGB", (side, side), portrait.background)
    if portrait.scene == "gradient":
        ends = [(16.0, portrait.background), (UNITS - 16.0, NAMED_COLOURS[portrait.second_name])]
        return shaded_rows(side, ends)
    stage = SCENERY[portrait.scene](side, portrait.texture)
    return stage.picture.filter(ImageFilter.GaussianBlur(SOFTNESS * stage.unit))


def beach(side: int, seed: int) -> Stage:
    """Sun, sea and sand, a palm on the left."""
    stage = Stage(side, [(0, (96, 184, 240)), (134, (206, 236, 250))], seed)
    stage.disc(214 + stage.rng.uniform(-8, 8), 40, 20, (255, 226, 112))
    stage.box(0, 136, UNITS, 200, (38, 140, 196))
    stage.box(0, 164, UNITS, 200, (70, 182, 206))
    shore = smooth([(0.0, 188.0), (70.0, 182.0), (150.0, 190.0), (256.0, 180.0)])
    stage.shape([*((x, y - 6) for x, y in shore), (256.0, 256.0), (0.0, 256.0)], (244, 250, 250))
    stage.shape([*shore, (256.0, 256.0), (0.0, 256.0)], (240, 214, 158))
    x = 30 + float(stage.rng.uniform(-6, 6))
    stage.shape([(x - 12, 206.0), (x + 2, 206.0), (x + 10, 60.0), (x + 2, 60.0)], (150, 104, 66))
    for reach, drop in ((-46.0, 26.0), (-34.0, -16.0), (8.0, -34.0), (44.0, -12.0), (50.0, 26.0)):
        tip, middle = (x + 6 + reach, 58 + drop), (x + 6 + reach * 0.5, 58 + drop * 0.5 - 16)
        stage.shape(smooth([(x + 6, 64.0), middle, tip]) + smooth([tip, (middle[0], middle[1] + 15), (x + 6, 64.0)]),
                    (44, 142, 78))  # fmt: skip
    return stage


def forest(side: int, seed: int) -> Stage:
    """Two rows of trees in a green mist, the near ones at the sides."""
    stage = Stage(side, [(0, (202, 230, 190)), (190, (158, 204, 144))], seed)
    for x in range(-6, 270, 34):
        top = float(stage.rng.uniform(24, 62))
        stage.box(x - 4, top + 40, x + 4, 216, (124, 150, 104))
        stage.shape(spline(ellipse(x, top + 34, 22, 44, 8)), (128, 182, 116))
    stage.box(0, 196, UNITS, UNITS, (84, 138, 66))
    for place in (4.0, 44.0, 214.0, 252.0):
        middle = place + float(stage.rng.uniform(-6, 6))
        stage.box(middle - 8, 100, middle + 8, 226, (96, 66, 44))
        for y, wide in ((24.0, 24.0), (58.0, 32.0), (96.0, 38.0)):
            stage.shape([(middle, y - 34), (middle + wide, y + 34), (middle - wide, y + 34)], (34, 102, 58))
    return stage


def office(side: int, seed: int) -> Stage:
    """A window on the left, shelves with files on the right, a desk in front of them."""
    stage = Stage(side, [(0, (236, 228, 214)), (UNITS, (216, 204, 188))], seed)
    stage.box(4, 22, 76, 136, (250, 250, 248))
    for left in (11, 43):
        for top in (29, 83):
            stage.box(left, top, left + 26, top + 46, (160, 208, 240))
    stage.box(184, 20, 252, 172, (150, 104, 68))
    files: tuple[Colour, ...] = ((190, 66, 60), (58, 104, 172), (232, 190, 84), (74, 142, 104), (244, 240, 232))
    for top in (27, 76, 125):
        stage.box(190, top, 246, top + 41, (102, 68, 46))
        for left in range(191, 240, 11):
            height = stage.rng.uniform(26, 38)
            stage.box(left, top + 41 - height, left + 9.5, top + 41, files[stage.rng.integers(len(files))])
    stage.box(0, 196, UNITS, 206, (176, 122, 78))
    stage.box(0, 206, UNITS, UNITS, (128, 86, 56))
    return stage


def city(side: int, seed: int) -> Stage:
    """Two rows of towers against an evening sky, with lit windows."""
    stage = Stage(side, [(0, (120, 158, 218)), (120, (246, 202, 176)), (200, (252, 224, 190))], seed)
    for left in range(-8, 256, 30):
        stage.box(left, stage.rng.uniform(66, 120), left + 30, UNITS, (150, 152, 188))
    for left, wide in ((-8, 42), (36, 30), (190, 32), (224, 42)):
        top = float(stage.rng.uniform(24, 84))
        stage.box(left, top, left + wide, UNITS, (66, 74, 110))
        for x in range(left + 6, left + wide - 7, 12):
            for y in np.arange(top + 10, 240, 16):
                if stage.rng.random() < 0.7:
                    stage.box(x, y, x + 7, y + 8, (255, 220, 130))
    return stage


def snow(side: int, seed: int) -> Stage:
    """White hills, firs under snow, and flakes."""
    stage = Stage(side, [(0, (136, 172, 206)), (170, (208, 224, 238))], seed)
    stage.shape([*smooth([(0.0, 164.0), (80.0, 142.0), (256.0, 176.0)]), (256.0, 256.0), (0.0, 256.0)],
                (226, 236, 246))  # fmt: skip
    for x in (26.0, 64.0, 206.0, 242.0):
        x, low = x + float(stage.rng.uniform(-6, 6)), float(stage.rng.uniform(186, 206))
        for step in range(3):
            top, wide = low - 128 + 36 * step, 18.0 + 8 * step
            stage.shape([(x, top), (x + wide, top + 54), (x - wide, top + 54)], (58, 108, 104))
            stage.shape([(x, top), (x + wide * 0.56, top + 30), (x, top + 22), (x - wide * 0.56, top + 30)],
                        (246, 250, 254))  # fmt: skip
    stage.shape([*smooth([(0.0, 206.0), (120.0, 190.0), (256.0, 200.0)]), (256.0, 256.0), (0.0, 256.0)],
                (248, 251, 255))  # fmt: skip
    for _ in range(60):
        x, y = stage.rng.uniform(0, UNITS, 2)
        stage.disc(x, y, stage.rng.uniform(2.2, 4.2), (255, 255, 255))
    return stage


def stars(side: int, seed: int) -> Stage:
    """A night sky with a moon on the right."""
    stage = Stage(side, [(0, (12, 16, 48)), (UNITS, (58, 52, 120))], seed)
    for _ in range(70):
        x, y = stage.rng.uniform(0, UNITS, 2)
        colour = between((255, 255, 255), (255, 226, 150), float(stage.rng.random()))
        stage.disc(x, y, stage.rng.uniform(1.6, 3.8), colour)
    stage.disc(222, 44, 21, lighter((250, 232, 170), 0.2))
    stage.disc(213, 38, 18, (18, 21, 56))
    return stage


SCENERY: dict[Scene, Callable[[int, int], Stage]] = {
    "beach": beach, "forest": forest, "office": office, "city": city, "snow": snow, "stars": stars,
}  # fmt: skip

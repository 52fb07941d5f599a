"""Hair of a cartoon, behind and in front of the head, as full and as far back as the person's is."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from deployments.embedded.training.renderer.cartoon.strands import draw_grooves, draw_rings
from deployments.embedded.training.renderer.cartoon.styles import Style, style_of
from deployments.embedded.training.renderer.drawing import (
    FACE_X,
    GRID_Y,
    Array,
    Points,
    Sketch,
    darker,
    ellipse,
    faded,
    light_field,
    lighter,
    overlap,
    shaded,
    tinted,
)
from deployments.embedded.training.renderer.hair import crown, hair_mask
from deployments.embedded.training.renderer.portrait import Portrait, brightness

SKULL = (42.5, 57.0)  # half width and height of its upper half
HIGHEST = 84.0  # of hair above the face's middle, in units of the skull
Coordinates = NDArray[np.float64]


class Hair:
    """One person's hair: its style, fitted."""

    def __init__(self, sketch: Sketch) -> None:
        self.sketch = sketch
        self.style = style_of(sketch.person.hair_style, sketch.person.parting < 0)
        self.covered = sketch.person.hat == "headscarf"

    @property
    def over_ears(self) -> bool:
        """Whether ears are hidden."""
        return self.style.shape.over_ears or self.covered

    def draw_back(self) -> None:
        """What lies behind the body and the head: drawn first."""
        if self.covered or not self.style.shape.back:
            return
        sketch = self.sketch
        mask = hair_mask(sketch, self.fitted(self.style.shape.back))
        sketch.fill(mask, tinted(darker(sketch.hair, 0.14), self.light() - 0.06, 0.15))
        draw_grooves(sketch, self.placed(self.style.behind), mask)
        draw_rings(sketch, self.placed(self.style.dark), [], mask)
        sketch.take_rim_light(mask, sketch.hair)

    def draw_front(self, face: Image.Image) -> None:
        """Shaved parts, then the hair with its shadow on the face and its strands; a bald head gets a shine."""
        sketch, shape = self.sketch, self.style.shape
        if self.covered:
            return
        if sketch.person.hair_style == "bald" and sketch.person.hat == "none":
            shine = sketch.mask(sketch.skull(ellipse(-14, -44, 13, 6)))
            sketch.soften(shine, lighter(sketch.person.skin, 0.6), 5, 0.5, within=face)
        shaved = hair_mask(sketch, self.fitted(shape.shaved))
        sketch.fill(faded(shaved, 0.62), sketch.hair)
        mask = hair_mask(sketch, self.fitted(shape.front))
        shadow = ImageChops.offset(sketch.soft(mask, 3, 0.55), 0, round(5 * sketch.unit))
        sketch.fill(overlap(shadow, face), shaded(sketch.person.skin, 0.5), solid=False)
        sketch.fill(mask, tinted(sketch.hair, self.light(), 0.15))
        draw_grooves(sketch, self.placed(self.style.strands), mask)
        draw_rings(sketch, self.placed(self.style.dark), self.placed(self.style.light), mask)
        for part in (shaved, mask):
            sketch.take_rim_light(part, sketch.hair)

    def light(self) -> Array:
        """On the shading grid: a band of sheen around the crown, stronger on dark hair, and darker ends."""
        radius, angle = crown(self.sketch)
        sheen = np.exp(-(((radius - 0.83) / 0.09) ** 2) - ((angle + 0.55) / 0.5) ** 2)
        sheen *= 0.3 - 0.12 * brightness(self.sketch.hair) / 255
        field = light_field(self.sketch, FACE_X, self.sketch.face_y, 104, 112, 0.45)
        return np.asarray(field + sheen - 0.14 * np.clip((GRID_Y - 100) / 110, 0, 1))

    def placed(self, lines: tuple[Points, ...]) -> list[Points]:
        """Fitted, in drawing units."""
        return [self.sketch.skull(line) for line in self.fitted(lines)]

    def fitted(self, lines: tuple[Points, ...]) -> tuple[Points, ...]:
        """Outlines or strands as the person's volume, recession and parting have them."""
        if not lines:
            return ()
        xy = np.concatenate([np.asarray(line, dtype=np.float64) for line in lines])
        moved = voluminous(receded(parted(xy, self.style, self.sketch.person), self.style, self.sketch.person),
                           self.sketch.person.volume)  # fmt: skip
        ends = np.cumsum([len(line) for line in lines])[:-1]
        return tuple([(x, y) for x, y in part.tolist()] for part in np.split(moved, ends))


def parted(xy: Coordinates, style: Style, person: Portrait) -> Coordinates:
    """The parting moves away from the middle, or towards it."""
    if style.parting is None:
        return xy
    x, y = xy.T
    side = -1.0 if style.parting < 0 else 1.0
    near = np.exp(-(((x - style.parting) / 17) ** 2)) * np.clip((-24 - y) / 16, 0, 1)
    return np.stack([x + side * 15 * (abs(person.parting) - 0.5) * near, y], 1)


def receded(xy: Coordinates, style: Style, person: Portrait) -> Coordinates:
    """The hairline rises, most above the temples, though never to the skull's rim."""
    x, y = xy.T
    rise = style.bared * person.recession * (17 * np.exp(-(((abs(x) - 24) / 10) ** 2)) + 5)
    rim = -SKULL[1] * np.sqrt(np.clip(0.95 - (x / SKULL[0]) ** 2, 0, 1))
    rise *= np.clip((-6 - y) / 14, 0, 1)
    return np.stack([x, y - np.minimum(rise, np.maximum(y - rim, 0))], 1)


def voluminous(xy: Coordinates, volume: float) -> Coordinates:
    """What stands beyond the skull does so by half as much, or by half more; it stays in the picture."""
    x, y = xy.T
    radius = np.hypot(x / SKULL[0], np.minimum(y, 0) / SKULL[1])
    beyond = np.maximum(radius - 1, 0)
    grown = 1 + beyond * (0.9 * volume - 0.44) / np.maximum(radius, 1)
    x, y = x * grown, np.where(y < 0, y * grown, y)
    over = np.maximum(-y - HIGHEST + 8, 0)
    return np.stack([x, np.where(over > 0, -(HIGHEST - 8) - 8 * np.tanh(over / 8), y)], 1)

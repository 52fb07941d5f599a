"""Strands of hair as lines: broad grooves between locks, waves, rings of curls."""

import numpy as np
from PIL import Image, ImageChops

from deployments.embedded.training.renderer.drawing import Points, Sketch, arc, darker, faded, lighter, overlap, smooth
from deployments.embedded.training.renderer.portrait import brightness

PALE = 150.0  # brightness of hair on which grooves are fainter
UP = 3.0  # of the light beside a groove, in drawing units


def fan(first: Points, last: Points, count: int) -> list[Points]:
    """`count` smooth lines from the one through `first` to the one through `last`, which have as many points."""
    a, b = np.array(smooth(first)), np.array(smooth(last))
    return [[(x, y) for x, y in (a + (b - a) * share).tolist()] for share in np.linspace(0, 1, count)]


def waved(lines: list[Points], height: float, length: float) -> list[Points]:
    """Each line with waves across it, which grow from nothing over the first wave."""
    return [wave(line, height, length) for line in lines]


def wave(line: Points, height: float, length: float) -> Points:
    """One of `waved`."""
    xy = np.array(line)
    along = np.gradient(xy, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6)
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(xy, axis=0), axis=1))])
    swing = height * np.sin(2 * np.pi * way / length) * np.minimum(way / length, 1)
    moved = xy + np.stack([-along[:, 1], along[:, 0]], 1) * swing[:, None]
    return [(x, y) for x, y in moved.tolist()]


def rings(radius: float, left: float, top: float, low: float) -> tuple[tuple[Points, ...], tuple[Points, ...]]:
    """The shaded lower and the lit upper arcs of curls that fill the box from (left, top) to (-left, low)."""
    rng = np.random.default_rng(7)  # the same curls on all heads: no trait tells them apart
    step = 2.15 * radius
    centres = [
        (x + step / 2 * (row % 2) + rng.normal(0, 0.16 * radius), y + rng.normal(0, 0.16 * radius))
        for row, y in enumerate(np.arange(top, low, step * 0.86))
        for x in np.arange(left, -left + step, step)
    ]
    dark = tuple(arc(x, y, radius, radius, 5, 185, 7) for x, y in centres)
    light = tuple(arc(x - radius * 0.1, y, radius * 0.62, radius * 0.62, 190, 300, 5) for x, y in centres)
    return dark, light


def draw_grooves(sketch: Sketch, lines: list[Points], hair: Image.Image, depth: float = 1.0) -> None:
    """Dark lines, each with a light above it, in drawing units; all stay within the mask `hair`."""
    if not lines:
        return
    deep = 0.5 if brightness(sketch.hair) < PALE else 0.34
    groove = sketch.soft(sketch.line_mask(*lines, width=4.4), 0.6, 0.75 * depth)
    up = round(-UP * sketch.unit)
    glow = overlap(ImageChops.offset(groove, up, up), hair)
    sketch.fill(faded(glow, 0.7), lighter(sketch.hair, 0.26), solid=False)
    sketch.fill(overlap(groove, hair), darker(sketch.hair, deep), solid=False)


def draw_rings(sketch: Sketch, dark: list[Points], light: list[Points], hair: Image.Image) -> None:
    """Curls by their shaded and their lit sides, in drawing units; all stay within the mask `hair`."""
    if not dark:
        return
    shade = faded(overlap(sketch.line_mask(*dark, width=4.0), hair), 0.55)
    sketch.fill(shade, darker(sketch.hair, 0.45), solid=False)
    shine = faded(overlap(sketch.line_mask(*light, width=4.0), hair), 0.55)
    sketch.fill(shine, lighter(sketch.hair, 0.22), solid=False)

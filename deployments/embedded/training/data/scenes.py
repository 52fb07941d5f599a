"""Pictures without people, for the face detector: procedural scenes of what resembles a face, and true photos.

Nothing here is a face. Much has what a face has: two dark spots above a third, an oval of skin, symmetry, a frame
about a middle; collars and necks come from drawn persons whose head is taken away.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from deployments.embedded.training.renderer.backdrop import any_colour, backdrop, fractal, gradient_field
from deployments.embedded.training.renderer.population import random_hair, random_skin
from deployments.embedded.training.renderer.portrait import Colour

Pixels = NDArray[np.uint8]
SIGNS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789&%?!@#:;()[]{}<>*+=-"
PICTURES: dict[str, tuple[str, ...]] = {  # packages' pictures without people that training uses
    "skimage": tuple(
        f"data/{name}"
        for name in ("brick.png", "cell.png", "clock_motion.png", "grass.png", "gravel.png", "hubble_deep_field.jpg",
                     "microaneurysms.png", "moon.png", "motorcycle_right.png", "page.png", "rocket.jpg")
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}  # fmt: skip
HELD_BACK: dict[str, tuple[str, ...]] = {  # those that only measurements see
    "skimage": tuple(
        f"data/{name}"
        for name in ("chelsea.png", "chessboard_RGB.png", "coffee.png", "coins.png", "color.png", "horse.png",
                     "ihc.png", "logo.png", "motorcycle_left.png", "phantom.png", "retina.jpg", "text.png")
    ),
    "matplotlib": ("mpl-data/sample_data/Minduka_Present_Blue_Pack.png", "mpl-data/sample_data/logo2.png"),
}  # fmt: skip


def installed(wanted: dict[str, tuple[str, ...]]) -> list[Pixels]:
    """Those of the packages' pictures that are on this machine, (h, w, 3) each; the packages are not imported."""
    found = []
    for package, files in wanted.items():
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            paths = [Path(spec.origin).parent / file for file in files]
            found += [opened(path) for path in paths if path.exists()]
    return found


def opened(path: Path) -> Pixels:
    """(h, w, 3), at most 1024 pixels a side."""
    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
        rgb.thumbnail((1024, 1024), Image.Resampling.BOX)
        return np.asarray(rgb, dtype=np.uint8)


def part_of(pictures: Sequence[Pixels], size: int, rng: np.random.Generator) -> Pixels:
    """(size, size, 3): some square of some picture, mirrored or in other colours at times."""
    picture = pictures[int(rng.integers(len(pictures)))]
    height, width = picture.shape[:2]
    side = int(min(height, width) * rng.uniform(0.25, 1.0))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    square = Image.fromarray(picture[top : top + side, left : left + side])
    part = np.asarray(square.resize((size, size), Image.Resampling.BOX if side > size else Image.Resampling.BICUBIC))
    if rng.random() < 0.5:
        part = part[:, ::-1]
    if rng.random() < 0.25:
        part = part[..., rng.permutation(3)]
    return part


def near(colour: Colour, rng: np.random.Generator, spread: float = 40) -> Colour:
    """Another shade of a colour."""
    r, g, b = (int(np.clip(c + rng.normal(0, spread), 0, 255)) for c in colour)
    return r, g, b


def dark_or_light(colour: Colour, rng: np.random.Generator) -> Colour:
    """One that stands out from `colour`, mostly as the darker one."""
    factor = rng.uniform(0.05, 0.6) if rng.random() < 0.75 else rng.uniform(1.4, 2.2)
    r, g, b = (int(np.clip(c * factor, 0, 255)) for c in colour)
    return r, g, b


def facade(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """Windows in rows, some with bars, on a wall."""
    wall = any_colour(rng)
    draw.rectangle((0, 0, size, size), fill=wall)
    step_x, step_y = rng.uniform(0.1, 0.5, 2) * size
    wide, high = step_x * rng.uniform(0.3, 0.8), step_y * rng.uniform(0.3, 0.8)
    pane, frame = dark_or_light(wall, rng), near(wall, rng, 60)
    bars = rng.integers(0, 3, 2)
    for x in np.arange(rng.uniform(-0.3, 0.3) * step_x, size, step_x):
        for y in np.arange(rng.uniform(-0.3, 0.3) * step_y, size, step_y):
            draw.rectangle(
                (x, y, x + wide, y + high), fill=near(pane, rng, 12), outline=frame, width=max(1, size // 90)
            )
            for bar in range(1, bars[0] + 1):
                draw.line((x + wide * bar / (bars[0] + 1), y, x + wide * bar / (bars[0] + 1), y + high), frame, 2)
            for bar in range(1, bars[1] + 1):
                draw.line((x, y + high * bar / (bars[1] + 1), x + wide, y + high * bar / (bars[1] + 1)), frame, 2)


def tiles(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """Chequers, stripes, bricks or dots."""
    first, step = any_colour(rng), rng.uniform(0.03, 0.25) * size
    second, kind = dark_or_light(first, rng), rng.integers(4)
    draw.rectangle((0, 0, size, size), fill=first)
    for row, y in enumerate(np.arange(0, size, step)):
        for column, x in enumerate(np.arange(-step, size, step)):
            if (kind == 0 and (row + column) % 2) or (kind == 1 and column % 2):
                draw.rectangle((x, y, x + step, y + step), fill=second)
            elif kind == 2:
                at = x + step / 2 * (row % 2)
                draw.rectangle((at, y, at + step, y + step), fill=near(first, rng, 10), outline=second)
            elif kind == 3:
                draw.ellipse((x + step * 0.2, y + step * 0.2, x + step * 0.8, y + step * 0.8), fill=second)


def letters(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """Lines of signs; a few large ones at times."""
    paper = any_colour(rng)
    ink, high = dark_or_light(paper, rng), rng.uniform(0.05, 0.6) * size
    draw.rectangle((0, 0, size, size), fill=paper)
    font = ImageFont.load_default(max(8, high))
    for y in np.arange(rng.uniform(-0.5, 0.3) * high, size, high * 1.15):
        line = "".join(SIGNS[i] for i in rng.integers(len(SIGNS), size=int(size / high * 2) + 2))
        draw.text((rng.uniform(-0.1, 0.05) * size, y), line, ink, font)


def oval(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], fill: Colour) -> None:
    """An ellipse whose corners may lie on the wrong sides."""
    x0, y0, x1, y1 = box
    draw.ellipse((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), fill=fill)


def round_things(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """Plates, wheels, buttons, clocks: rings about a middle, with spokes, marks or holes."""
    for _ in range(rng.integers(1, 5)):
        x, y, radius = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(0.06, 0.5) * size
        flat, colour = rng.uniform(0.6, 1.0), any_colour(rng)
        for ring in sorted(rng.uniform(0.1, 1, rng.integers(1, 6)))[::-1]:
            draw.ellipse(
                (x - radius * ring, y - radius * ring * flat, x + radius * ring, y + radius * ring * flat), colour
            )
            colour = dark_or_light(colour, rng) if rng.random() < 0.6 else near(colour, rng)
        marks, at, mark = int(rng.integers(0, 13)), rng.uniform(0.2, 0.9), dark_or_light(colour, rng)
        first = rng.uniform(0, 2 * np.pi)
        for angle in first + np.arange(marks) * 2 * np.pi / max(marks, 1):
            u, v, dot = x + radius * at * np.cos(angle), y + radius * flat * at * np.sin(angle), radius * 0.09
            if rng.random() < 0.5:
                draw.ellipse((u - dot, v - dot, u + dot, v + dot), mark)
            else:
                draw.line((x, y, u, v), mark, max(1, int(dot)))


def animals(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """Heads of cats, dogs, bears and owls: ears on top, round eyes far apart, a dark nose on a muzzle."""
    for _ in range(rng.integers(1, 3)):
        x, y, r = rng.uniform(0.1, 0.9) * size, rng.uniform(0.1, 0.9) * size, rng.uniform(0.1, 0.42) * size
        fur = random_hair(rng) if rng.random() < 0.7 else any_colour(rng)
        ear, apart, tall = rng.random(), rng.uniform(0.35, 0.6), rng.uniform(0.8, 1.15)
        for side in (-1, 1):
            if ear < 0.45:
                draw.polygon([(x + side * r * 0.25, y - r * 0.8), (x + side * r * 0.75, y - r * 1.5),
                              (x + side * r * 0.95, y - r * 0.3)], near(fur, rng, 15))  # fmt: skip
            elif ear < 0.75:
                oval(draw, (x + side * r * 0.7, y - r * 0.9, x + side * r * 1.2, y + r * 0.6), near(fur, rng, 20))
            else:
                oval(draw, (x + side * r * 0.45, y - r * 1.2, x + side * r * 1.0, y - r * 0.6), near(fur, rng, 20))
        draw.ellipse((x - r, y - r * tall, x + r, y + r * tall), fur)
        muzzle = near(fur, rng, 50)
        draw.ellipse((x - r * 0.55, y, x + r * 0.55, y + r * 0.85), muzzle)
        eye, white, open_ = r * rng.uniform(0.1, 0.24), any_colour(rng), rng.uniform(0.6, 1.0)
        for side in (-1, 1):
            u, v = x + side * r * apart, y - r * rng.uniform(0.12, 0.2)
            draw.ellipse((u - eye, v - eye * open_, u + eye, v + eye * open_), white)
            pupil = eye * rng.uniform(0.3, 0.95)
            draw.ellipse((u - pupil * 0.6, v - pupil * open_, u + pupil * 0.6, v + pupil * open_), (14, 12, 12))
        nose = r * rng.uniform(0.1, 0.22)
        draw.ellipse((x - nose * 1.3, y + r * 0.2, x + nose * 1.3, y + r * 0.2 + nose * 1.5), (24, 18, 18))
        draw.line((x, y + r * 0.2 + nose, x, y + r * 0.6), (24, 18, 18), max(1, int(r / 20)))
        for side in (-1, 1):
            draw.arc(
                (x + min(0, side) * r * 0.4, y + r * 0.4, x + max(0, side) * r * 0.4, y + r * 0.7),
                20,
                160,
                (24, 18, 18),
            )


def bare_skin(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """Hands, arms, knees, balls, fruit: ovals and fingers in one skin, with knuckles and navels."""
    skin = random_skin(rng)
    for _ in range(rng.integers(1, 5)):
        x, y, wide, high = rng.uniform(0, size), rng.uniform(0, size), *rng.uniform(0.05, 0.45, 2) * size
        draw.ellipse((x - wide, y - high, x + wide, y + high), near(skin, rng, 8))
        for _ in range(rng.integers(0, 6)):
            u, v = x + rng.uniform(-0.8, 0.8) * wide, y + rng.uniform(-0.8, 0.8) * high
            spot = rng.uniform(0.03, 0.2) * min(wide, high)
            draw.ellipse((u - spot * rng.uniform(1, 3), v - spot, u + spot, v + spot), dark_or_light(skin, rng))
        for finger in range(rng.integers(0, 6)):
            at = x + (finger / 2.5 - 1) * wide
            draw.line((at, y, at + rng.normal(0, 0.1) * size, y - high * rng.uniform(1.0, 1.9)), near(skin, rng, 12),
                      max(2, int(wide / 3)), joint="curve")  # fmt: skip


DRAWN: tuple[Callable[[ImageDraw.ImageDraw, int, np.random.Generator], None], ...] = (
    facade, tiles, letters, round_things, animals, bare_skin,
)  # fmt: skip


def carving(size: int, rng: np.random.Generator) -> Pixels:
    """Stone or wood in relief, mirrored about a middle as ornaments are: holes and ridges of one material."""
    height = fractal(size, rng, rng.uniform(0.8, 2.0)) + 0.4 * fractal(size, rng, 0.6)
    if rng.random() < 0.75:
        middle = int(rng.integers(size // 4, 3 * size // 4))
        reach = min(middle, size - middle)
        height[:, middle : middle + reach] = height[:, middle - reach : middle][:, ::-1]
    angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(4, 30)
    slope_y, slope_x = np.gradient(height)
    shade = 1 + depth / 10 * (slope_x * np.cos(angle) + slope_y * np.sin(angle)) + rng.uniform(0, 0.3) * height
    colour = np.array(any_colour(rng) if rng.random() < 0.6 else random_skin(rng), dtype=np.float64)
    return np.asarray((colour * shade.clip(0.1, 2)[..., None]).clip(0, 255), dtype=np.uint8)


def drawn_scene(size: int, rng: np.random.Generator) -> Pixels:
    """One kind of thing on a whole picture or, at times, on a part of a backdrop; turned at times, shaded."""
    draft = Image.new("RGB", (size, size), any_colour(rng))
    if rng.random() < 0.5:
        field = backdrop(size, rng) if rng.random() < 0.6 else gradient_field(size, rng)
        draft = Image.fromarray(field.clip(0, 255).astype(np.uint8))
    DRAWN[rng.integers(len(DRAWN))](ImageDraw.Draw(draft), size, rng)
    if rng.random() < 0.3:
        draft = draft.rotate(rng.uniform(-45, 45), Image.Resampling.BILINEAR, fillcolor=any_colour(rng))
    if rng.random() < 0.6:
        draft = draft.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, size / 90))))
    shade = 1 + rng.uniform(0, 0.2) * fractal(size, rng, rng.uniform(0.3, 2.0))
    return np.asarray((np.asarray(draft) * shade.clip(0.2, 2)[..., None]).clip(0, 255), dtype=np.uint8)


def scene(size: int, rng: np.random.Generator, pictures: Sequence[Pixels]) -> Pixels:
    """(size, size, 3) without a face: a true photo's part, a backdrop, a drawn scene or a carving."""
    kind = rng.random()
    if pictures and kind < 0.4:
        return part_of(pictures, size, rng)
    if kind < 0.62:
        return backdrop(size, rng).clip(0, 255).astype(np.uint8)
    return carving(size, rng) if kind > 0.93 else drawn_scene(size, rng)

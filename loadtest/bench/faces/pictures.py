"""Photos for the measurement of face detection: drawn persons and scenes that no training saw, and packages' photos."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.embedded.training.data.faces import lit, paste, placed_points
from deployments.embedded.training.data.heads import cut_out
from deployments.embedded.training.data.scenes import HELD_BACK, drawn_scene, installed, opened, part_of, scene
from deployments.embedded.training.evaluate.figures import HELD_OUT
from deployments.embedded.training.renderer.camera import through_a_camera
from deployments.embedded.training.renderer.population import random_portrait
from deployments.face.upright import turn_of
from deployments.types import Pixels
from loadtest.bench.avatars.photos import installed as photos_of_faces

SIDE = 480  # pixels of a drawn photo
SMALLEST, LARGEST = 0.14, 0.62  # sides of faces, of the photo's


@dataclass(frozen=True, slots=True)
class Case:
    """A photo with one face to find: its middle, side, and turn in radians, clockwise."""

    name: str
    photo: Pixels
    middle: tuple[float, float]
    side: float
    turn: float = 0.0

    def turned(self, degrees: float) -> "Case":
        """The photo turned clockwise; at multiples of 90 no pixel changes, else its edge goes on in the corners."""
        height, width = self.photo.shape[:2]
        angle = math.radians(degrees)
        if degrees % 90 == 0:
            photo = np.ascontiguousarray(np.rot90(self.photo, -round(degrees / 90)))
        else:
            photo = turned_photo(self.photo, degrees)
        away = np.array(self.middle) - (width / 2, height / 2)
        cos, sin = math.cos(angle), math.sin(angle)
        x, y = away @ np.array([[cos, sin], [-sin, cos]]) + (photo.shape[1] / 2, photo.shape[0] / 2)
        return Case(self.name, photo, (float(x), float(y)), self.side, self.turn + angle)


def turned_photo(photo: Pixels, degrees: float) -> Pixels:
    """(h, w, 3) turned clockwise and whole: the result is larger."""
    height, width = photo.shape[:2]
    margin = math.ceil(math.hypot(height, width) - min(height, width)) // 2 + 2
    padded = Image.fromarray(np.pad(photo, ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
    turned = padded.rotate(-degrees, Image.Resampling.BICUBIC)
    cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    wide, high = width * cos + height * sin, width * sin + height * cos
    left, top = (turned.width - wide) / 2, (turned.height - high) / 2
    return np.asarray(turned.crop((round(left), round(top), round(left + wide), round(top + high))))


def drawn_cases(count: int, scenes: Sequence[Pixels]) -> Iterator[Case]:
    """Held-out persons in held-back scenes, upright to a few degrees."""
    for number in range(count):
        rng = np.random.default_rng((HELD_OUT, number))
        head, points = cut_out(random_portrait(np.random.default_rng(HELD_OUT + 3000 + number)), rng)
        side = SIDE * math.exp(rng.uniform(math.log(SMALLEST), math.log(LARGEST)))
        inside = side * 0.75
        x, y = (float(v) for v in rng.uniform(inside, SIDE - inside, 2)) if inside < SIDE / 2 else (SIDE / 2, SIDE / 2)
        turn = -turn_of(points[:5]) + float(np.clip(rng.normal(0, 0.05), -0.1, 0.1))
        canvas = Image.fromarray(scene(SIDE, rng, scenes))
        paste(canvas, lit(head, rng), points, (x, y), side, turn)
        landmarks = placed_points(points, (x, y), side, turn)[:5]
        yield Case(f"drawn {number}", through_a_camera(np.asarray(canvas), rng), (x, y), side, turn_of(landmarks))


TILTS = {"long fair hair": -26, "black hair, turned": -20, "dark quiff": 13}  # degrees, by eye, of real faces


def real_cases() -> Iterator[Case]:
    """The faces of the photos that packages ship: each with what is about it, and no other face."""
    for face, photo in photos_of_faces():
        x0, y0, x1, y1 = face.box
        side, x, y = x1 - x0, (x0 + x1) / 2, (y0 + y1) / 2
        reach = 1.15 * side
        left, top = max(0, round(x - reach)), max(0, round(y - reach))
        part = photo[top : round(y + reach), left : round(x + reach)]
        tilt = math.radians(TILTS.get(face.name, 0))
        yield Case(face.name, np.ascontiguousarray(part), (x - left, y - top), side, tilt)


def faceless(count: int, folder: Path | None) -> Iterator[tuple[str, Pixels]]:
    """Held-back scenes without people: the packages' pictures whole, then parts of them and drawn scenes in turn."""
    whole = installed(HELD_BACK)
    files = [] if folder is None else sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))
    whole += [opened(path) for path in files]
    made = (a_scene(number, whole) for number in itertools.count())
    pictures = itertools.chain(((f"picture {number}", picture) for number, picture in enumerate(whole)), made)
    yield from itertools.islice(pictures, count)


def a_scene(number: int, pictures: Sequence[Pixels]) -> tuple[str, Pixels]:
    """One of 480 pixels a side, of a seed that no training uses."""
    rng = np.random.default_rng((HELD_OUT, 77, number))
    kind = (lambda: part_of(pictures, SIDE, rng), lambda: drawn_scene(SIDE, rng), lambda: scene(SIDE, rng, pictures))
    return f"scene {number}", through_a_camera(kind[number % 3](), rng)


def held_back(folder: Path | None) -> list[NDArray[np.uint8]]:
    """The pictures behind drawn persons."""
    files = [] if folder is None else sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))
    return installed(HELD_BACK) + [opened(path) for path in files]

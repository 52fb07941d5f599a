"""Faces in scenes, for the face detector: drawn heads of all sizes and turns pasted into pictures without people."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from deployments.embedded.training.data.dataset import CHUNK
from deployments.embedded.training.data.heads import (
    BOX_PX,
    HEAD_SIDE,
    MIDDLE,
    NECK_POINT,
    POINTS,
    Heads,
    draw_heads,
    write_whole,
)
from deployments.embedded.training.data.scenes import PICTURES, Pixels, installed, opened, scene
from deployments.embedded.training.renderer.backdrop import any_colour
from deployments.embedded.training.renderer.camera import through_a_camera
from deployments.embedded.training.renderer.population import random_hair, random_skin
from deployments.face.upright import turn_of

CANVAS = 256  # pixels of a training picture's side
MOST_FACES = 4
FACE_VALUES = 14  # of a stored face: middle x and y, side, angle in radians, then x and y of five landmarks
MOST_HIDDEN = 0.25  # of a face's middle, by another person
SMALLEST, LARGEST = 17.0, 235.0  # sides of faces, in pixels of the canvas
Placed = NDArray[np.float32]


def placed_points(points: Placed, middle: tuple[float, float], side: float, angle: float) -> Placed:
    """A cut-out's points on the canvas; `angle`: radians by which it is turned, clockwise as one sees it."""
    cos, sin, scale = np.cos(angle), np.sin(angle), side / BOX_PX
    away = (points - points[MIDDLE]) * scale
    return np.asarray(away @ np.array([[cos, sin], [-sin, cos]]) + middle, dtype=np.float32)


def paste(
    canvas: Image.Image, head: Pixels, points: Placed, middle: tuple[float, float], side: float, angle: float
) -> Image.Image:
    """Draws the head with its face's middle there, and returns what it covers (L).

    Its trunk goes on below where the cut-out ends.
    """
    longer = np.pad(head, ((0, 2 * HEAD_SIDE), (0, 0), (0, 0)), mode="edge")
    scale, half = side / BOX_PX, max(1, round(BOX_PX / side)) if side < BOX_PX / 2 else 1
    cos, sin = np.cos(angle) / scale / half, np.sin(angle) / scale / half
    x, y = points[MIDDLE] / half
    source = Image.fromarray(longer, "RGBA").reduce(half)
    place = (cos, sin, x - cos * middle[0] - sin * middle[1], -sin, cos, y + sin * middle[0] - cos * middle[1])
    moved = source.transform(canvas.size, Image.Transform.AFFINE, place, Image.Resampling.BILINEAR)
    cover = moved.getchannel("A")
    canvas.paste(moved.convert("RGB"), (0, 0), cover)
    return cover


def hidden_by(cover: Image.Image, faces: Placed) -> NDArray[np.bool_]:
    """Which of (n, FACE_VALUES) faces lie for the most part under what was pasted later."""
    gone = np.zeros(len(faces), dtype=bool)
    for number, (x, y, side) in enumerate(faces[:, :3]):
        if not np.isnan(x):
            reach = max(2.0, side * 0.35)
            box = (max(0, int(x - reach)), max(0, int(y - reach)), int(x + reach) + 1, int(y + reach) + 1)
            gone[number] = np.asarray(cover.crop(box)).mean() > MOST_HIDDEN * 255
    return gone


def without_face(head: Pixels, points: Placed, rng: np.random.Generator) -> Pixels:
    """The head from behind, or only the trunk with its collar: no face."""
    changed, hide = head.copy(), Image.new("L", (HEAD_SIDE, HEAD_SIDE), 0)
    x, y = points[MIDDLE]
    if rng.random() < 0.5:
        changed[: int(points[NECK_POINT, 1]), :, 3] = 0
        return changed
    ImageDraw.Draw(hide).ellipse((x - BOX_PX * 0.52, y - BOX_PX * 0.75, x + BOX_PX * 0.52, y + BOX_PX * 0.62), fill=255)
    share = (np.asarray(hide.filter(ImageFilter.GaussianBlur(2))) / 255.0)[..., None]
    hair = np.array(random_hair(rng)) * (
        1 + 0.12 * rng.normal(size=(HEAD_SIDE, 1, 1)).repeat(HEAD_SIDE, 1).transpose(1, 0, 2)
    )
    changed[..., :3] = (changed[..., :3] * (1 - share) + hair.clip(0, 255) * share).astype(np.uint8)
    changed[..., 3] = np.maximum(changed[..., 3], np.asarray(hide))
    return changed


def covered(head: Pixels, points: Placed, rng: np.random.Generator) -> Pixels:
    """A hand on the head, hair in the wind, a cup before the chin: strokes over the rim of the face."""
    picture = Image.fromarray(head, "RGBA")
    draw, (x, y) = ImageDraw.Draw(picture), points[MIDDLE]
    colour = (*(random_skin(rng) if rng.random() < 0.5 else random_hair(rng)), 255)
    for _ in range(rng.integers(1, 7)):
        angle = rng.uniform(0, 2 * np.pi)
        reach, width = BOX_PX * rng.uniform(0.35, 0.7), int(BOX_PX * rng.uniform(0.02, 0.13))
        start = (x + np.cos(angle) * reach * 0.85, y + np.sin(angle) * reach)
        away = angle + rng.normal(0, 0.9)
        draw.line(
            (*start, start[0] + np.cos(away) * BOX_PX * 0.5, start[1] + np.sin(away) * BOX_PX * 0.5),
            colour,
            max(1, width),
        )
    return np.asarray(picture)


def lit(head: Pixels, rng: np.random.Generator) -> Pixels:
    """In a light of its own: brighter or darker than the scene, flat or with deep shades, grey at times."""
    picture = head[..., :3].astype(np.float32) / 255
    picture = (picture ** np.exp(rng.normal(0, 0.25)) * np.exp(rng.normal(-0.05, 0.25)) - 0.5) * np.exp(
        rng.normal(0, 0.2)
    ) + 0.5
    return np.concatenate([(picture * 255).clip(0, 255).astype(np.uint8), head[..., 3:]], -1)


def random_place(rng: np.random.Generator, alone: bool) -> tuple[tuple[float, float], float, float]:
    """Middle, side and angle: half of the faces are nearly upright, the others turned by anything."""
    largest = LARGEST if alone else 90.0
    side = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(largest))))
    inside = min(side * 0.45, CANVAS / 2 - 1)
    x, y = rng.uniform(inside, CANVAS - inside, 2)
    angle = rng.normal(0, 0.2) if rng.random() < 0.5 else rng.uniform(-np.pi, np.pi)
    return (float(x), float(y)), side, float(angle)


def canvas_of(heads: Heads, pictures: Sequence[Pixels], rng: np.random.Generator) -> tuple[Pixels, Placed]:
    """One training picture, (CANVAS, CANVAS, 3), and its faces, (MOST_FACES, FACE_VALUES), NaN where there is none."""
    count = int(rng.choice(5, p=[0.28, 0.5, 0.12, 0.06, 0.04]))
    canvas = Image.fromarray(scene(CANVAS, rng, pictures))
    faces = np.full((MOST_FACES, FACE_VALUES), np.nan, dtype=np.float32)
    for _ in range(rng.integers(0, 3) if rng.random() < 0.25 else 0):
        head, points = some_head(heads, rng)
        paste(canvas, without_face(head, points, rng), points, *random_place(rng, alone=True))
    taken: list[tuple[float, float, float]] = []
    for number in range(count):
        middle, side, angle = random_place(rng, count == 1)
        if any(max(abs(middle[0] - x), abs(middle[1] - y)) < 0.75 * (side + other) for x, y, other in taken):
            continue
        head, points = some_head(heads, rng)
        shown = covered(head, points, rng) if rng.random() < 0.25 else head
        cover = paste(canvas, lit(shown, rng), points, middle, side, angle)
        faces[hidden_by(cover, faces)] = np.nan
        landmarks = placed_points(points, middle, side, angle)[:5]
        faces[number] = *middle, side, turn_of(landmarks), *landmarks.ravel()
        taken.append((*middle, side))
    return degraded(through_a_camera(np.asarray(canvas), rng), rng), faces


def degraded(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """What photos are besides: grey, tinted, far too dark or pale, or seen small."""
    if rng.random() < 0.15:
        picture = np.repeat(np.asarray(Image.fromarray(picture).convert("L"))[..., None], 3, axis=2)
    if rng.random() < 0.2:
        gain = np.exp(rng.normal(0, 0.5)) * np.exp(rng.normal(0, 0.1, 3))
        picture = (picture * gain + rng.uniform(-20, 40)).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.1:
        colour = np.array(any_colour(rng)) * rng.uniform(0, 0.35)
        picture = (picture * 0.75 + colour).clip(0, 255).astype(np.uint8)
    return picture


def some_head(heads: Heads, rng: np.random.Generator) -> tuple[Pixels, Placed]:
    """One of them, mirrored at times, with its landmarks in the order of the mirror image."""
    index = int(rng.integers(len(heads.pictures)))
    head, points = heads.pictures[index], heads.points[index]
    if rng.random() < 0.5:
        return head, points
    mirrored = points[[1, 0, 2, 4, 3, *range(MIDDLE, POINTS)]].copy()
    mirrored[:, 0] = HEAD_SIDE - mirrored[:, 0]
    return head[:, ::-1], mirrored


@dataclass(frozen=True)
class FaceSet:
    """The training pictures of a folder: files `faces-*.npy` of pictures, and beside each one of the faces."""

    pictures: list[NDArray[np.uint8]]  # memory-mapped, (CHUNK, CANVAS, CANVAS, 3) each
    faces: Placed  # (files, CHUNK, MOST_FACES, FACE_VALUES)

    @classmethod
    def load(cls, folder: Path) -> "FaceSet":
        """What is complete; more may be on its way. Raises: FileNotFoundError where nothing is."""
        files = sorted(folder.glob("faces-*.npz"))
        if not files:
            raise FileNotFoundError(f"{folder} has no drawn faces")
        pictures = [np.load(file.with_suffix(".npy"), mmap_mode="r") for file in files]
        return cls(pictures, np.stack([np.load(file)["faces"] for file in files]))

    def __len__(self) -> int:
        return len(self.pictures) * CHUNK

    def batch(self, index: NDArray[np.int64]) -> tuple[Pixels, Placed]:
        """(n, CANVAS, CANVAS, 3) and (n, MOST_FACES, FACE_VALUES) of those numbers."""
        return np.stack([self.pictures[i // CHUNK][i % CHUNK] for i in index]), self.faces.reshape(
            -1, MOST_FACES, FACE_VALUES
        )[index]


def draw_canvases(folder: Path, scenes: Path | None, seed: int, start: int) -> None:
    """The CHUNK canvases from `start` on, unless they are there."""
    done = folder / f"faces-{start:06}.npz"
    if done.exists():
        return
    heads, pictures = materials(folder, scenes)
    drawn = [canvas_of(heads, pictures, np.random.default_rng((seed, start + i, 7))) for i in range(CHUNK)]
    np.save(done.with_suffix(".npy"), np.stack([picture for picture, _ in drawn]))
    write_whole(done, faces=np.stack([faces for _, faces in drawn]))


@cache
def materials(folder: Path, scenes: Path | None) -> tuple[Heads, list[Pixels]]:
    """What canvases are made of, read once in each process."""
    return Heads.load(folder), scene_pictures(scenes)


def scene_pictures(folder: Path | None) -> list[Pixels]:
    """The pictures without people of installed packages, and those of a folder."""
    files = [] if folder is None else sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))
    return installed(PICTURES) + [opened(path) for path in files]


def draw_face_set(folder: Path, scenes: Path | None, seed: int, heads: int, canvases: int, workers: int) -> None:
    """First the heads, then the canvases; what is there is kept, and training may read what is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(partial(draw_heads, folder, seed), range(0, heads, CHUNK)))
        list(pool.map(partial(draw_canvases, folder, scenes, seed), range(0, canvases, CHUNK)))

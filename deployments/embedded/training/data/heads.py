"""Cut-out heads of drawn persons, with their landmarks: what is pasted into scenes for the face detector."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from deployments.embedded.training.data.dataset import CHUNK, person_of
from deployments.embedded.training.renderer.drawing import FACE_X, Look, Sketch
from deployments.embedded.training.renderer.figure import render
from deployments.embedded.training.renderer.photo import (
    distortion,
    face_box,
    face_frame,
    label_picture,
    random_look,
)
from deployments.embedded.training.renderer.portrait import Portrait, another_sitting
from deployments.embedded.training.renderer.relight import relit

HEAD_SIDE = 208  # pixels of a cut-out; the box of its face has about 92
NECK = 62.0  # of its height, below the face's centre, in drawing units
Pixels = NDArray[np.uint8]
Points = NDArray[np.float32]


@dataclass(frozen=True)
class Heads:
    """`pictures`: (n, HEAD_SIDE, HEAD_SIDE, 4) RGBA; `points`: (n, POINTS, 2), x and y in their pixels."""

    pictures: Pixels
    points: Points

    @classmethod
    def load(cls, folder: Path) -> "Heads":
        """Those that `draw_heads` wrote. Raises: FileNotFoundError."""
        files = sorted(folder.glob("heads-*.npz"))
        if not files:
            raise FileNotFoundError(f"{folder} has no heads")
        chunks = [np.load(file) for file in files]
        return cls(
            np.concatenate([chunk["pictures"] for chunk in chunks]),
            np.concatenate([chunk["points"] for chunk in chunks]),
        )


# Of a head: eyes, nose, corners of the mouth, each pair from the left; then the face's middle, and the neck.
MIDDLE, NECK_POINT, POINTS = 5, 6, 7


def landmarks(sitting: Portrait, size: int) -> Points:
    """(POINTS, 2) of a photo of `size` pixels, before distortion; the middle is that of `face_box`."""
    sketch = Sketch(sitting, size, Look())
    y, nose_x = sketch.face_y, sketch.feature_x(0) + 2.5 * sitting.yaw
    mouth_x, half = sketch.feature_x(0) + 1.0 * sitting.yaw, 15.0
    drawn = [
        (sketch.feature_x(-18.5), y - 2.0),
        (sketch.feature_x(18.5), y - 2.0),
        (nose_x, y + 21.0),
        (mouth_x - half, y + 36.0),
        (mouth_x + half, y + 36.0),
    ]
    placed = np.asarray(sketch.place([*drawn, (FACE_X, y + NECK)]), dtype=np.float32) / 2
    x0, y0, x1, y1 = face_box(sitting, size)
    middle = np.array([[(x0 + x1) / 2, (y0 + y1) / 2]], dtype=np.float32)
    return np.concatenate([placed[:5], middle, placed[5:]])


def cut_out(person: Portrait, rng: np.random.Generator, size: int = HEAD_SIDE) -> tuple[Pixels, Points]:
    """The person on another day, relit and distorted, (size, size, 4), and where the points went."""
    sitting, look = another_sitting(person, rng), random_look(rng)
    drawn, alpha = render(sitting, size, look)
    labels, box = label_picture(sitting, size, look), face_box(sitting, size)
    picture = relit(np.asarray(drawn, dtype=np.float64), labels, sitting, face_frame(sitting, size), rng)
    place = distortion(size, box, rng).astype(np.float32)
    channels = [*np.moveaxis(picture, 2, 0), np.asarray(alpha, dtype=np.float64)]
    bent = np.stack([map_coordinates(channel, place, order=1, mode="nearest") for channel in channels], -1)
    return bent.clip(0, 255).astype(np.uint8), moved(landmarks(sitting, size), place)


def moved(points: Points, place: NDArray[np.float32]) -> Points:
    """Where a distortion took points: to the pixels that come from nearest to them."""
    rows, columns = place
    far = (columns[None] + 0.5 - points[:, 0, None, None]) ** 2 + (rows[None] + 0.5 - points[:, 1, None, None]) ** 2
    nearest = far.reshape(len(points), -1).argmin(1)
    return np.stack([nearest % place.shape[2], nearest // place.shape[2]], 1).astype(np.float32) + 0.5


def draw_heads(folder: Path, seed: int, start: int) -> None:
    """The CHUNK heads from `start` on, unless they are there; a file is written whole or not at all."""
    path = folder / f"heads-{start:06}.npz"
    if path.exists():
        return
    drawn = [cut_out(*person_of(seed, index)) for index in range(start, start + CHUNK)]
    pictures, points = (np.stack(column) for column in zip(*drawn, strict=True))
    write_whole(path, pictures=pictures, points=points)


def write_whole(path: Path, **arrays: NDArray[Any]) -> None:
    """An uncompressed .npz that nobody sees half-written."""
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    draft.rename(path)

"""Cut-out heads of drawn persons, with their landmarks: what is pasted into scenes for the face detector."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.embedded.training.data.dataset import CHUNK, person_of
from deployments.embedded.training.renderer.lifelike.shot import BOX_SIDE, Place, take
from deployments.embedded.training.renderer.photo import stored
from deployments.embedded.training.renderer.portrait import Portrait, another_sitting

BOX_PX = 92.0  # of a cut-out's face: the side of the detector's box
HEAD_SIDE = 208  # pixels of a cut-out
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


def cut_out(person: Portrait, rng: np.random.Generator, size: int = HEAD_SIDE) -> tuple[Pixels, Points]:
    """The person on another day, (size, size, 4), and its points."""
    sitting = another_sitting(person, rng)
    roll = float(np.deg2rad(np.clip(rng.normal(0, 10), -28, 28)))
    middle = size / 2, size * 0.53
    shot = take(sitting, Place(*middle, size * BOX_PX / HEAD_SIDE / BOX_SIDE, roll), size, rng)
    cover = (shot.cover * 255).astype(np.uint8)
    points = np.concatenate([shot.landmarks, [middle], [shot.neck]]).astype(np.float32)
    return np.concatenate([stored(shot.light), cover[..., None]], -1), points


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

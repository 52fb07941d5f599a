"""The training set: rendered once, in parallel, into memory-mapped arrays."""

import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from deployments.embedded.training.data.overrides import changed, in_scene
from deployments.embedded.training.renderer.figure import render
from deployments.embedded.training.renderer.flat.view import flat_view
from deployments.embedded.training.renderer.photo import avatar_view, labelled_views
from deployments.embedded.training.renderer.population import random_portrait
from deployments.embedded.training.renderer.portrait import Gender, Portrait, as_gender, avatar_sitting

CHUNK = 100  # persons drawn by one call in a worker
VIEWS = 2  # photos of a person; a flat drawing and an avatar follow
CHANGED_SHARE = 0.4  # of the avatars by other prompts than the default
AVATARS = 2  # the first is for the default prompt, the second for others


@dataclass(frozen=True)
class Folder:
    """Where one set lies."""

    path: Path

    def array(self, name: str) -> NDArray[np.uint8]:
        """A set's pictures, memory-mapped read-only: (persons, ...) of uint8. Raises: FileNotFoundError."""
        loaded: NDArray[np.uint8] = np.load(self.path / f"{name}.npy", mmap_mode="r")
        return loaded

    def portraits(self, name: str) -> list[Any]:
        """Whom a set shows: a Portrait for each person, in `avatars` a list of them. Raises: FileNotFoundError."""
        loaded: list[Any] = pickle.loads((self.path / f"{name}.pickle").read_bytes())
        return loaded


def person_of(seed: int, index: int) -> tuple[Portrait, np.random.Generator]:
    """A person that seed and index fix in every process, and the generator of its further random choices."""
    rng = np.random.default_rng((seed, index))
    return random_portrait(rng), rng


def person_avatar(person: Portrait, rng: np.random.Generator, default: bool) -> Portrait:
    """The person as photographed, in other clothes before a plain colour; 20% have the other gender.

    The benchmarks draw them with fixed seeds: what is new in avatars belongs to `avatar_of`.
    """
    sitting = replace(avatar_sitting(person, rng), parting=abs(person.parting))
    if default:
        expression = sitting.expression if sitting.expression in ("smiling", "laughing") else "smiling"
        sitting = replace(sitting, background_name="black", expression=expression)
    genders: tuple[Gender, Gender] = ("man", "woman")
    wanted = genders[rng.integers(2)] if rng.random() < 0.4 else person.gender
    return as_gender(sitting, wanted, rng)


def avatar_of(person: Portrait, rng: np.random.Generator, default: bool) -> Portrait:
    """What the generator should draw of the person: by the default prompt, or by one that asks for anything.

    A fifth of the prompts of either kind asks for the other gender, 40% of the second kind for another trait.
    """
    avatar = person_avatar(person, rng, default)
    if default:
        return avatar
    avatar = in_scene(avatar, rng)
    return changed(avatar, rng) if rng.random() < CHANGED_SHARE else avatar


def small_picture(portrait: Portrait) -> NDArray[np.uint8]:
    """(64, 64, 3): exactly what the latents hold."""
    picture, _ = render(portrait, 128)
    return np.asarray(picture.resize((64, 64), Image.Resampling.BOX), dtype=np.uint8)


def draw_photos(job: tuple[int, int]) -> tuple[list[Portrait], NDArray[np.uint8]]:
    """Crops with what each pixel shows, (n, VIEWS + 2, CROP_SIZE, CROP_SIZE, 4)."""
    seed, start = job
    persons, views = [], []
    for index in range(start, start + CHUNK):
        person, rng = person_of(seed, index)
        persons.append(person)
        views.append(np.stack([*labelled_views(person, rng, VIEWS), flat_view(person, rng), avatar_view(person, rng)]))
    return persons, np.stack(views)


def draw_avatars(job: tuple[int, int]) -> tuple[list[list[Portrait]], NDArray[np.uint8]]:
    """Avatars as the latents hold them, (n, AVATARS, 64, 64, 3), and for each person the portraits that they show."""
    seed, start = job
    portraits = [sittings_of(seed, index) for index in range(start, start + CHUNK)]
    return portraits, np.stack([np.stack([small_picture(each) for each in sittings]) for sittings in portraits])


def sittings_of(seed: int, index: int) -> list[Portrait]:
    """The AVATARS portraits of a person that the generator learns: by the default prompt, and by another."""
    person, rng = person_of(seed, index)[0], np.random.default_rng((seed, index, 1))
    return [avatar_of(person, rng, default=number == 0) for number in range(AVATARS)]


def draw_large(job: tuple[int, int]) -> tuple[list[Portrait], NDArray[np.uint8]]:
    """RGB and alpha together, (n, 256, 256, 4); half of them on black."""
    seed, start = job
    portraits, pictures = [], []
    for index in range(start, start + CHUNK):
        sitting = large_sitting(seed, index)
        picture, alpha = render(sitting)
        picture.putalpha(alpha)
        portraits.append(sitting)
        pictures.append(np.asarray(picture, dtype=np.uint8))
    return portraits, np.stack(pictures)


def large_sitting(seed: int, index: int) -> Portrait:
    """Whom a picture of the large set shows: half of them on black, by the default prompt."""
    person, rng = person_of(seed, index)
    return avatar_of(person, rng, default=index % 2 == 0)


Draw = Callable[[tuple[int, int]], tuple[list[Any], NDArray[np.uint8]]]


def draw_set(folder: Folder, name: str, draw: Draw, seed: int, count: int, workers: int) -> None:
    """Draws `count` persons' pictures unless they are there; the order does not depend on the workers."""
    done = folder.path / f"{name}.pickle"
    if done.exists():
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    jobs = [(seed, start) for start in range(0, count, CHUNK)]
    portraits: list[Any] = []
    target: NDArray[np.uint8] | None = None
    with ProcessPoolExecutor(workers) as pool:
        for (_, start), (drawn, pictures) in zip(jobs, tqdm(pool.map(draw, jobs), name, len(jobs)), strict=True):
            if target is None:
                target = open_memmap(
                    folder.path / f"{name}.npy", mode="w+", dtype=np.uint8, shape=(count, *pictures.shape[1:])
                )
            target[start : start + CHUNK] = pictures[: count - start]  # the last chunk may be larger than the rest
            portraits += drawn[: count - start]
    done.write_bytes(pickle.dumps(portraits))

"""Real colour photos from installed packages, with hand-picked positions of skin and hair.

For measurement only: no model was trained on them, and no person is identified.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.color import rgb2lab

from deployments.embedded.training.data.captions import default_caption
from deployments.embedded.training.evaluate.figures import HELD_OUT
from deployments.embedded.training.evaluate.inference import Studio
from deployments.embedded.training.evaluate.judge import Judge
from deployments.embedded.training.renderer.photo import augmented_crops
from deployments.embedded.training.train.face import triples_right
from deployments.types import Box
from loadtest.bench.avatars.scores import Array, Picture, Score, differences, share

Places = tuple[tuple[int, int], ...]
REACH = 4  # pixels about a place
GROUP = "insightface", "data/images/t1.jpg"
ASTRONAUT = "skimage", "data/astronaut.png"
OFFICER = "matplotlib", "mpl-data/sample_data/grace_hopper.jpg"


@dataclass(frozen=True, slots=True)
class Face:
    """One face of a photo; `box` is the cascade's, or drawn by hand for a face that it misses."""

    name: str
    file: tuple[str, str]  # package and path
    gender: str
    box: Box
    skin: Places  # x, y
    hair: Places


# Neither blown out nor in shadow; hair at the sides where a cap is worn.
FACES = (
    Face("astronaut", ASTRONAUT, "woman", (175, 66, 276, 167),
         ((208, 125), (258, 125)), ((180, 60), (285, 80), (230, 40))),
    Face("long fair hair", GROUP, "woman", (51, 268, 173, 390),
         ((88, 345), (110, 285)), ((45, 320), (170, 320), (38, 370))),
    Face("black hair, turned", GROUP, "woman", (255, 158, 373, 276),
         ((330, 220), (300, 160)), ((330, 130), (290, 125), (360, 150))),
    Face("dark quiff", GROUP, "man", (452, 277, 583, 408),
         ((540, 350), (510, 290)), ((540, 245), (500, 255), (580, 280))),
    Face("short dark hair", GROUP, "man", (725, 352, 847, 474),
         ((825, 425), (790, 360)), ((800, 315), (780, 320), (860, 350))),
    Face("black hair, in profile", GROUP, "man", (885, 75, 1013, 203),
         ((975, 130), (940, 90)), ((960, 30), (1000, 40), (1020, 70))),
    Face("blond bob", GROUP, "woman", (1114, 277, 1234, 397),
         ((1210, 345), (1150, 345)), ((1245, 330), (1240, 380), (1195, 245))),
    Face("cap and glasses", OFFICER, "woman", (153, 107, 379, 334),
         ((200, 258), (318, 258), (255, 155)), ((172, 202), (352, 282))),
)  # fmt: skip


def photo_of(face: Face) -> Picture | None:
    """(h, w, 3), or None where the package is not installed; it is not imported."""
    package, path = face.file
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return np.asarray(Image.open(Path(spec.origin).parent / path).convert("RGB"), dtype=np.uint8)


def installed() -> list[tuple[Face, Picture]]:
    """The faces whose photos are on this machine, each with its whole photo, (h, w, 3)."""
    return [(face, photo) for face in FACES if (photo := photo_of(face)) is not None]


@dataclass(frozen=True, slots=True)
class PhotoCase:
    """A face in several views, with the avatar of the default prompt for each."""

    face: Face
    photo: Picture
    crops: list[Picture]
    embeddings: NDArray[np.float32]  # (views, 512)
    avatars: list[Picture]


def draw_photo_cases(studio: Studio, count: int) -> Iterator[PhotoCase]:
    """`count` augmented crops of each installed face, and an avatar of each crop with a seed of its own."""
    rng = np.random.default_rng(HELD_OUT)
    for face, photo in installed():
        crops = augmented_crops(photo, face.box, rng, count)
        embeddings = studio.embed(np.stack(crops))
        prompt = default_caption(face.gender)
        avatars = [studio.draw(embedding, prompt, [seed])[0] for seed, embedding in enumerate(embeddings)]
        yield PhotoCase(face, photo, crops, embeddings, avatars)


def photo_scores(cases: Sequence[PhotoCase], judge: Judge) -> Iterator[Score]:
    """Scores over all avatars; with so few faces the bar is all but one in twenty."""
    seen, count = judge.read([avatar for case in cases for avatar in case.avatars]), len(cases[0].crops)
    for name, colours, bar in (("skin", seen.skin, 12), ("hair", seen.hair, 18)):
        truth = np.repeat([patch_lab(case.photo, getattr(case.face, name)) for case in cases], count, axis=0)
        apart = differences(colours, truth)
        medians = np.median(apart.reshape(-1, count), axis=1)
        worst = f"{cases[int(medians.argmax())].face.name} {medians.max():.1f}"
        note = f"median {np.median(apart):.1f}; {worst}"
        yield Score(f"real photos: {name} within dE {bar}", share(apart < bar), 0.95, note=note)
    triples = triples_right(np.stack([case.embeddings for case in cases]))
    yield Score("real photos: triples right", triples, 0.9, note=f"{len(cases)} faces, {count} views each")


def patch_lab(photo: Picture, places: Places) -> Array:
    """(3,): the median colour about some places, in CIE Lab."""
    cuts = [photo[y - REACH : y + REACH + 1, x - REACH : x + REACH + 1].reshape(-1, 3) for x, y in places]
    median = np.median(np.concatenate(cuts), axis=0)
    return np.asarray(rgb2lab(median[None, None] / 255)[0, 0], dtype=np.float64)

"""Sheets for people to judge by: a photo beside four avatars of one gender, of which one is its own, and a key.

Nothing on a sheet, in its name or in its order tells which avatar is right: that stands in the key alone.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from deployments.embedded.training.data.captions import default_caption
from deployments.embedded.training.renderer.appearance import read_embedding
from deployments.embedded.training.renderer.portrait import Gender
from deployments.errors import NoFaceError
from deployments.face.model import FaceModel
from deployments.types import Photo
from loadtest.bench.avatars.scores import Picture

LETTERS = "ABCD"
CELL, MARGIN, TEXT = 256, 12, 40  # pixels
QUESTION = "Which avatar shows this person, A to D? Would a friend recognise them by it, from 1 (no) to 5 (at once)?"
KEY = "key.json"


class TooFewPhotosError(ValueError):
    """There are not four usable photos of a gender: an avatar cannot be told from three others."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A usable photo; the vector is the service's."""

    name: str  # of the file
    photo: Picture
    gender: Gender
    embedding: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Trial:
    """The photo of one file beside the avatars of four, its own among them, in the order of LETTERS."""

    photo: str
    avatars: tuple[str, ...]

    @property
    def right(self) -> str:
        """The letter of the photo's own avatar."""
        return LETTERS[self.avatars.index(self.photo)]


def read_folder(folder: Path, faces: FaceModel, gender: Gender | None) -> tuple[list[Subject], dict[str, str]]:
    """The usable photos, and why each other file is not; `gender` of all of them, or as each photo is read."""
    subjects, unusable = [], {}
    for path in sorted(folder.iterdir()):
        try:
            photo = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"), np.uint8)
        except (UnidentifiedImageError, OSError):
            unusable[path.name] = "not a picture"
            continue
        (face,) = faces.embed([Photo(photo)])
        if isinstance(face, NoFaceError):
            unusable[path.name] = str(face)
        else:
            told = gender or read_embedding(face.vector)["gender"]
            subjects.append(Subject(path.name, photo, told, face.vector))
    return subjects, unusable


def trials(genders: dict[str, Gender], unusable: dict[str, str], rng: np.random.Generator) -> list[Trial]:
    """A trial for each file, shuffled; `genders` by file. Raises: TooFewPhotosError."""
    groups = {gender: [name for name in genders if genders[name] == gender] for gender in genders.values()}
    few = {gender: names for gender, names in groups.items() if len(names) < len(LETTERS)}
    if few or not groups:
        raise TooFewPhotosError(too_few(few, unusable))
    made = [trial(name, groups[gender], rng) for name, gender in genders.items()]
    return [made[int(place)] for place in rng.permutation(len(made))]


def trial(name: str, group: Sequence[str], rng: np.random.Generator) -> Trial:
    """The photo's own avatar among those of three others of its group."""
    others = rng.choice([other for other in group if other != name], len(LETTERS) - 1, replace=False)
    return Trial(name, tuple(str(one) for one in rng.permutation([name, *others])))


def too_few(groups: dict[Gender, list[str]], unusable: dict[str, str]) -> str:
    """Why a folder cannot be judged, and what helps."""
    found = "; ".join(f"{len(names)} of a {gender} ({', '.join(names)})" for gender, names in groups.items())
    reasons = "".join(f"\n  {name}: {reason}" for name, reason in unusable.items())
    return (
        f"a blind choice needs {len(LETTERS)} usable photos of each gender that occurs; found {found or 'none'}. "
        "Add photos, or tell the gender of all with --gender." + (f"\nNot usable:{reasons}" if reasons else "")
    )


def sheet(photo: Picture, avatars: Sequence[Picture]) -> Image.Image:
    """The photo, then the avatars with their letters; the question below."""
    width = (CELL + MARGIN) * (1 + len(avatars)) + MARGIN
    whole = Image.new("RGB", (width, CELL + 2 * MARGIN + 2 * TEXT), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(18)
    for place, picture in enumerate([photo, *avatars]):
        left = MARGIN + place * (CELL + MARGIN)
        fitted = ImageOps.contain(Image.fromarray(picture), (CELL, CELL))
        whole.paste(fitted, (left + (CELL - fitted.width) // 2, MARGIN + (CELL - fitted.height) // 2))
        label = LETTERS[place - 1] if place else "photo"
        draw.text((left + CELL // 2, CELL + MARGIN + TEXT // 2), label, "black", font, anchor="mm")
    draw.text((width // 2, CELL + MARGIN + TEXT * 3 // 2), QUESTION, "black", font, anchor="mm")
    return whole


def write_sheets(
    some: Sequence[Trial], photos: dict[str, Picture], avatar_of: Callable[[str], Picture], out: Path
) -> None:
    """`sheet-01.png` and so on, and the key: for each sheet its photo's file, the right letter, and all avatars'."""
    out.mkdir(parents=True, exist_ok=True)
    avatars = {name: avatar_of(name) for name in photos}
    key = {}
    for number, one in enumerate(some, start=1):
        name = f"sheet-{number:02}.png"
        sheet(photos[one.photo], [avatars[other] for other in one.avatars]).save(out / name)
        of_letters = dict(zip(LETTERS, one.avatars, strict=True))
        key[name] = {"photo": one.photo, "right": one.right, "avatars": of_letters}
    (out / KEY).write_text(json.dumps(key, indent=2) + "\n")


def blind(folder: Path, out: Path, gender: Gender | None, weights: Path, faces: FaceModel) -> int:
    """Writes the sheets of a folder of photos; returns how many. Raises: TooFewPhotosError, before any drawing."""
    subjects, unusable = read_folder(folder, faces, gender)
    by_name = {one.name: one for one in subjects}
    some = trials({one.name: one.gender for one in subjects}, unusable, np.random.default_rng())
    # Imported here: it loads diffusers, which a folder that is refused does not need.
    from deployments.embedded.training.evaluate.inference import Studio

    studio = Studio(weights)

    def avatar_of(name: str) -> Picture:
        one = by_name[name]
        return studio.draw(one.embedding, default_caption(one.gender), [0])[0]

    write_sheets(some, {name: one.photo for name, one in by_name.items()}, avatar_of, out)
    return len(some)

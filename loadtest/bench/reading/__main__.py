"""What the embedded face encoder reads of people in a rendering that no training saw, trait by trait, against bars.

    python -m loadtest.bench.reading --json reading.json --sheet reading.png

Photos go through the service's own face model: search, levelling, correction of light, crop, encoder. A face that is
not found is read wrong. `recall` is the mean over a trait's classes, so that a constant answer scores `chance`;
`lights` is the recall under eight lights over that in a plain one; `both` is the share of persons who are read right in
two photos that differ in light and pose. Each person takes about eight seconds of processor.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage.color import deltaE_ciede2000
from tqdm import tqdm

from deployments.config import WEIGHTS, CascadeFaceModelConfig
from deployments.embedded.training.renderer.appearance import lab, read_embedding
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.errors import NoFaceError
from deployments.face.model import CascadeFaceModel, FaceModel
from deployments.types import Photo, Pixels
from loadtest.bench.reading.camera import LIGHTS
from loadtest.bench.reading.persons import persons
from loadtest.bench.reading.photos import Photos, photos_of
from loadtest.bench.reading.scores import BOTH_BAR, LIGHTS_BAR, Answers, Class, Row
from loadtest.bench.reading.traits import TRAITS, Read, Trait, shows_hair

SHOWN = 12  # persons on the sheet
Reading = Read | None  # None: no face was found


@dataclass(frozen=True, slots=True)
class Readings:
    """Of one person, in the order of `Photos`."""

    person: Portrait
    plain: Reading
    lit: list[Reading]
    pair: tuple[Reading, Reading]
    tilted: Reading

    @property
    def all(self) -> list[Reading]:
        """In the order of `Photos.all`."""
        return [self.plain, *self.lit, self.pair[1], self.tilted]


def read(model: FaceModel, photo: Pixels) -> Reading:
    """What the service's face model makes of a photo."""
    (face,) = model.embed([Photo(photo)])
    return None if isinstance(face, NoFaceError) else read_embedding(face.vector)


def readings(model: FaceModel, person: Portrait, photos: Photos) -> Readings:
    """Of all photos of a person."""
    plain, *lit, other, tilted = (read(model, photo) for photo in photos.all)
    return Readings(person, plain, lit, (lit[photos.of_pair], other), tilted)


def answers(trait: Trait, told: Sequence[Readings]) -> Answers:
    """The classes of one trait."""

    def classes(some: Sequence[Reading]) -> list[Class]:
        return [None if one is None else trait.read(one) for one in some]

    return Answers(
        [trait.truth(one.person) for one in told],
        classes([one.plain for one in told]),
        [classes([one.lit[light] for one in told]) for light in range(len(LIGHTS))],
        (classes([one.pair[0] for one in told]), classes([one.pair[1] for one in told])),
        classes([one.tilted for one in told]),
    )


def colour_errors(told: Sequence[Readings]) -> dict[str, float]:
    """Median CIEDE2000 of skin, and of hair that is seen, in plain light and in all eight; and the faces found."""
    errors: dict[str, float] = {}
    for part in ("skin", "hair"):
        seen = [one for one in told if part == "skin" or shows_hair(one.person)]
        plain = [(one.person, one.plain) for one in seen]
        lit = [(one.person, reading) for one in seen for reading in one.lit]
        for light, pairs in (("plain light", plain), ("eight lights", lit)):
            apart = [off(getattr(person, part), reading[part]) for person, reading in pairs if reading is not None]
            errors[f"{part}, median dE, {light}"] = float(np.median(apart)) if apart else math.nan
    found = [reading is not None for one in told for reading in one.all]
    return errors | {"faces found": float(np.mean(found)), "persons": float(len(told))}


def off(truth: Any, told: Any) -> float:
    """CIEDE2000 of two colours, sRGB of 0 to 255."""
    return float(deltaE_ciede2000(lab(truth), lab(told)))


def table(rows: Sequence[Row]) -> Table:
    """A line a trait; `!` marks a missed bar."""
    title = f"Reading a rendering never trained on: bars of lights {LIGHTS_BAR}, of both {BOTH_BAR}"
    shown = Table(
        "trait", "persons", "classes", "chance", "recall", "bar", "lights", "both", "tilted", "met", title=title
    )
    for row in rows:
        marks = {name: "" if met else "!" for name, met in row.met.items()}
        shown.add_row(
            row.trait, f"{row.persons}", f"{row.classes}", f"{row.chance:.2f}", f"{row.recall:.2f}{marks['recall']}",
            f"{row.bar}", f"{row.lights:.2f}{marks['lights']}", f"{row.both:.2f}{marks['both']}", f"{row.tilted:.2f}",
            "yes" if all(row.met.values()) else "no",
        )  # fmt: skip
    return shown


def sheet(shown: Sequence[Photos], cell: int = 160) -> Image.Image:
    """A row a person, all photos."""
    rows = [photos.all for photos in shown]
    whole = Image.new("RGB", (cell * len(rows[0]), cell * len(rows)))
    for y, row in enumerate(rows):
        for x, photo in enumerate(row):
            small = Image.fromarray(photo).resize((cell, cell), Image.Resampling.BOX)
            whole.paste(small, (x * cell, y * cell))
    return whole


def main() -> None:
    """Prints the table and writes the files that are asked for. A missed bar does not change the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--persons", type=int, default=110)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--sheet", type=Path, help="where a picture of some photos goes")
    options = parser.parse_args()
    model = CascadeFaceModel(CascadeFaceModelConfig(encoder=options.weights / "face" / "encoder.onnx", likeness=None))
    told, shown = [], []
    for number, person in enumerate(tqdm(persons(options.persons), "persons", mininterval=10)):
        photos = photos_of(person, number)
        told.append(readings(model, person, photos))
        shown += [photos] if number < SHOWN else []
    rows, colours = [answers(trait, told).row(trait.name, trait.bar) for trait in TRAITS], colour_errors(told)
    console = Console(width=120)
    console.print(table(rows))
    for name, value in colours.items():
        console.print(f"{name}: {value:.2f}")
    if options.json:
        figures = {"traits": [asdict(row) | {"met": row.met} for row in rows], **colours}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    if options.sheet:
        sheet(shown).save(options.sheet)


if __name__ == "__main__":
    main()

"""How surely faces are found, at any angle, and what is taken for one: the search beside the cascade alone.

    python -m loadtest.bench.faces --json faces.json --sheet faces.png

Of the faces that are found upright, each angle's share is printed; then how often one was accepted the wrong way up,
false alarms on scenes without people, and processor seconds a photo. Drawn persons and scenes have seeds outside of the
training set; real faces are those of installed packages' photos, on which nothing was trained.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from deployments.config import CascadeFaceModelConfig
from deployments.face.detection import Detection
from deployments.face.model import open_search
from deployments.face.upright import wrapped
from deployments.types import Pixels
from loadtest.bench.avatars.photos import ASTRONAUT, FACES, photo_of
from loadtest.bench.faces.cascade_alone import find_faces, find_largest
from loadtest.bench.faces.pictures import Case, drawn_cases, faceless, held_back, real_cases

ANGLES = {0: None, 20: 0.97, -20: 0.97, 30: 0.97, -30: 0.97, 45: 0.9, -45: 0.9, 90: 0.95, -90: 0.95, 180: 0.95}  # bars
NEAR, SCALE, LEVEL = 0.4, 1.7, math.radians(30)  # of a hit: place, of the side; size; turn
WRONG_WAY = math.radians(60)
MOST_CPU_S = 0.6
Find = Callable[[Pixels], list[Detection]]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `bar` is a minimum, or a maximum where `at_most`."""

    measure: str
    search: float
    cascade: float
    bar: float | None = None
    at_most: bool = False
    note: str = ""


def is_hit(case: Case, face: Detection, way_up: float = LEVEL) -> bool:
    """Whether a detection is the face of the case, turned about as it is."""
    x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    near = math.hypot(x - case.middle[0], y - case.middle[1]) < NEAR * case.side
    scaled = 1 / SCALE < face.side / case.side < SCALE
    return near and scaled and abs(wrapped(face.turn - case.turn)) < way_up


def rows_of_angles(name: str, cases: Sequence[Case], both: Sequence[Find]) -> list[Row]:
    """Found upright; of those, the share at each angle; and the share of photos accepted the wrong way up."""
    hits = np.zeros((2, len(ANGLES), len(cases)), bool)
    wrong = np.zeros((2, len(cases) * len(ANGLES)), bool)
    for number, case in enumerate(tqdm(cases, name, mininterval=10)):
        for place, degrees in enumerate(ANGLES):
            turned = case.turned(degrees)
            for which, find in enumerate(both):
                found = find(turned.photo)[:1]
                hits[which, place, number] = any(is_hit(turned, face) for face in found)
                upside = any(is_hit(turned, face, 9) and not is_hit(turned, face, WRONG_WAY) for face in found)
                wrong[which, number * len(ANGLES) + place] = upside
    rows = [Row(f"{name}: found upright", mean(hits[0, 0]), mean(hits[1, 0]), note=f"{len(cases)} faces")]
    for angle in dict.fromkeys(abs(angle) for angle in ANGLES if angle):
        places = [place for place, degrees in enumerate(ANGLES) if abs(degrees) == angle]
        search, cascade = (mean(one[places][:, one[0]]) if one[0].any() else 0.0 for one in hits)
        rows.append(Row(f"{name}: of those, at {angle} degrees", search, cascade, ANGLES[angle]))
    return [
        *rows,
        Row(f"{name}: accepted the wrong way up", mean(wrong[0]), mean(wrong[1]), 0.0, at_most=True),
    ]


def rows_of_scenes(pictures: Sequence[tuple[str, Pixels]], both: Sequence[Find], hits: list[Image.Image]) -> list[Row]:
    """False alarms, and processor time; what the search finds is appended to `hits`, framed."""
    alarms, seconds = np.zeros((2, len(pictures)), bool), np.zeros((2, len(pictures)))
    for number, (name, picture) in enumerate(tqdm(pictures, "scenes", mininterval=10)):
        for which, find in enumerate(both):
            start = time.process_time()
            found = find(picture)
            seconds[which, number] = time.process_time() - start
            alarms[which, number] = bool(found)
            if found and which == 0:
                hits.append(framed(picture, found, name))
    note = f"{len(pictures)} scenes"
    false, most = alarms.sum(1, dtype=float), seconds.max(1)
    return [
        Row("scenes without people: false alarms", false[0], false[1], 0.0, at_most=True, note=note),
        Row("of them, processor s, most", most[0], most[1], MOST_CPU_S, at_most=True),
        Row("of them, processor s, mean", mean(seconds[0]), mean(seconds[1])),
    ]


def mean(values: NDArray[Any]) -> float:
    """Of all of them."""
    return float(values.mean())


def row_of_a_large_face(both: Sequence[Find], rounds: int = 15) -> Row:
    """Processor seconds for the astronaut, as `embed` looks at it: the medians of rounds in turn."""
    photo = photo_of(next(face for face in FACES if face.file == ASTRONAUT))
    if photo is None:
        return Row("a large face, processor s", math.nan, math.nan)
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds):
        for which, find in enumerate(both):
            start = time.process_time()
            find(photo)
            seconds[which].append(time.process_time() - start)
    search, cascade = (float(np.median(one)) for one in seconds)
    return Row("a large face, processor s", search, cascade, bar=cascade, at_most=True)


def framed(picture: Pixels, faces: Sequence[Detection], name: str) -> Image.Image:
    """The picture with a turned square about each face; its upper side is green."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for face in faces:
        x, y, half = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2, face.side / 2
        cos, sin = math.cos(face.turn) * half, math.sin(face.turn) * half
        corners = [(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        draw.polygon(corners, outline="red")
        draw.line(corners[:2], fill="lime", width=3)
        draw.text(corners[0], f"{face.score:.2f}", fill="yellow")
        for px, py in () if face.landmarks is None else face.landmarks:
            draw.ellipse((px - 2, py - 2, px + 2, py + 2), fill="cyan")
    draw.text((2, 2), name, fill="white")
    image.thumbnail((240, 240))
    return image


def sheet(pictures: Sequence[Image.Image], across: int = 8) -> Image.Image:
    """All of them on one picture, cells of 240 pixels."""
    whole = Image.new("RGB", (240 * across, 240 * max(1, -(-len(pictures) // across))))
    for number, picture in enumerate(pictures):
        whole.paste(picture, (number % across * 240, number // across * 240))
    return whole


def table(rows: Sequence[Row]) -> Table:
    """The search beside the cascade; `met` is the search's."""
    shown = Table("measure", "search", "cascade", "bar", "met", "", title="Finding faces")
    for row in rows:
        met = "" if row.bar is None else "yes" if is_met(row) else "no"
        limit = "" if row.bar is None else f"at {'most' if row.at_most else 'least'} {row.bar:g}"
        shown.add_row(row.measure, f"{row.search:.3f}", f"{row.cascade:.3f}", limit, met, row.note)
    return shown


def is_met(row: Row) -> bool | None:
    """Whether the search meets the bar; None where there is none."""
    return None if row.bar is None else row.search <= row.bar if row.at_most else row.search >= row.bar


def main() -> None:
    """Prints the table and writes the files that are asked for. A missed bar does not change the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=60, help="drawn ones")
    parser.add_argument("--scenes", type=int, default=600)
    parser.add_argument("--pictures", type=Path, help="a folder of more pictures without people")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--sheet", type=Path, help="where a picture of the finds goes")
    options = parser.parse_args()
    search = open_search(CascadeFaceModelConfig())
    both: tuple[Find, Find] = (lambda photo: search.find(photo).faces, find_faces)
    shown: list[Image.Image] = []
    real, drawn = list(real_cases()), list(drawn_cases(options.faces, held_back(options.pictures)))
    rows = [row_of_a_large_face((lambda photo: search.find(photo).faces, find_largest))]
    rows += rows_of_angles("real", real, both)
    rows += rows_of_angles("drawn", drawn, both)
    rows += rows_of_scenes(list(faceless(options.scenes, options.pictures)), both, shown)
    Console(width=140).print(table(rows))
    if options.sheet:
        some = [case.turned(degrees) for case in real for degrees in (0, 30, 90, 180)]
        found = [framed(case.photo, search.find(case.photo).faces, case.name) for case in some]
        sheet([*found, *shown]).save(options.sheet)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) | {"met": is_met(row)} for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()

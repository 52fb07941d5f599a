"""What the embedded face encoder reads of skin under known light, with and without the correction of exposure and cast.

    python -m loadtest.bench.exposure --json exposure.json --sheet exposure.png

Drawn persons whom nothing was trained on are photographed in good light, in poor light and in coloured light. Figures
are CIEDE2000 between the skin that was read and the person's, medians over the persons of a tone. In good light the
correction has to leave the photo alone: `changed` is the share of photos where it did not.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage.color import deltaE_ciede2000
from tqdm import tqdm

from deployments.config import WEIGHTS
from deployments.embedded.training.evaluate.figures import HELD_OUT, held_out
from deployments.embedded.training.evaluate.inference import contact_sheet
from deployments.embedded.training.renderer.appearance import lab, read_embedding
from deployments.embedded.training.renderer.camera import compressed
from deployments.embedded.training.renderer.photo import plain_photo, stored
from deployments.embedded.training.renderer.portrait import Portrait, another_sitting
from deployments.face.alignment import crop_face, encoder_input
from deployments.face.exposure import in_good_light
from deployments.face.light import LINEAR, LUMINANCE, Linear
from deployments.face.quality import face_warnings
from deployments.types import Box, Pixels

FIRST_PERSON = HELD_OUT + 40_000
TONES = {"light": (70.0, 100.0), "medium": (45.0, 70.0), "dark": (0.0, 45.0)}  # CIE L*
SIDE = 256  # pixels
WHITE_WALL, WINDOW = 0.8, 1.0  # luminance
SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scene:
    """A person in good light: linear RGB of the figure and of a wall, (h, w, 3), and the figure's share, (h, w, 1)."""

    figure: Linear
    wall: Linear
    share: Linear

    def lit(self, light: Sequence[float] | float = 1.0, wall: float | None = None) -> Linear:
        """The photo with the figure in this light, and by default the wall, too; the camera clips."""
        much = np.asarray(light, np.float32)
        behind = self.wall * much if wall is None else np.full_like(self.wall, wall)
        return np.asarray(np.clip(self.figure * much * self.share + behind * (1 - self.share), 0, 1), np.float32)


def levels(linear: Linear) -> Pixels:
    """Linear RGB -> sRGB bytes, through a JPEG file."""
    encoded = np.interp(linear, LINEAR, np.arange(256)).round().astype(np.uint8)
    return np.asarray(compressed(Image.fromarray(encoded), 90), np.uint8)


def grey(scene: Scene, matrix: Numbers) -> Pixels:
    """(3, 3) times sRGB of the scene in good light."""
    return np.clip(levels(scene.lit()) @ matrix.T, 0, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Light:
    """How a scene is photographed, and which warning it deserves; None: none, it is well lit."""

    name: str
    photo: Callable[[Scene], Pixels]
    warning: str | None = None
    eyes: float = 1.0  # how far open


def coloured(red: float, green: float, blue: float) -> Callable[[Scene], Pixels]:
    """The light's colour; the brightest channel is as bright as in good light."""
    light = np.array([red, green, blue]) / max(red, green, blue)
    return lambda scene: levels(scene.lit(light.tolist()))


LIGHTS = (
    Light("good light", lambda scene: levels(scene.lit())),
    Light("white wall", lambda scene: levels(scene.lit(wall=WHITE_WALL))),
    Light("white wall, eyes nearly shut", lambda scene: levels(scene.lit(wall=WHITE_WALL)), eyes=0.1),
    Light("black wall, eyes nearly shut", lambda scene: levels(scene.lit(wall=0.002)), eyes=0.1),
    Light("50% of the light", lambda scene: levels(scene.lit(0.5)), "too_dark"),
    Light("30% of the light", lambda scene: levels(scene.lit(0.3)), "too_dark"),
    Light("15% of the light", lambda scene: levels(scene.lit(0.15)), "too_dark"),
    Light("15% of the grey levels", lambda scene: (levels(scene.lit()) * 0.15).astype(np.uint8), "too_dark"),
    Light("backlit, 15%", lambda scene: levels(scene.lit(0.15, wall=WINDOW)), "backlit"),
    Light("lamp", coloured(1.6, 1.0, 0.5), "colour_cast"),
    Light("shade", coloured(0.6, 1.0, 1.5), "colour_cast"),
    Light("green", coloured(0.7, 1.2, 0.7), "colour_cast"),
    Light("magenta", coloured(1.25, 0.8, 1.25), "colour_cast"),
    Light("lamp, 15%", lambda scene: levels(scene.lit([0.15, 0.094, 0.047])), "colour_cast"),
    Light("grey", lambda scene: grey(scene, np.tile(LUMINANCE, (3, 1))), "monochrome"),
    Light("sepia", lambda scene: grey(scene, SEPIA), "monochrome"),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """Of one photo: how far the skin that was read is from the person's, and what its owner is told."""

    before: float
    after: float
    lighter: float  # L* of the skin after, minus that before
    is_changed: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. `warned`: with the code that the light deserves; in good light with any."""

    light: str
    tone: str
    persons: int
    before: float
    after: float
    lighter: float
    changed: float
    warned: float


class Encoder:
    """The face encoder of `weights`, and the skin that it reads."""

    def __init__(self, weights: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        path = weights / "face" / "encoder.onnx"
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def skin(self, crop: Pixels) -> Numbers:
        """(3,): CIE Lab of the skin, read from a crop by `crop_face`."""
        (embeddings,) = self._session.run(None, {"input": encoder_input(crop[None])})
        return lab(read_embedding(np.asarray(embeddings[0], np.float32))["skin"])


def people(of_each: int) -> dict[str, list[Portrait]]:
    """As many of each tone, in the order of their seeds."""
    chosen: dict[str, list[Portrait]] = {tone: [] for tone in TONES}
    start = FIRST_PERSON
    while any(len(some) < of_each for some in chosen.values()):
        (person,), start = held_out(1, start), start + 1
        (tone,) = (tone for tone, (low, high) in TONES.items() if low <= lab(person.skin)[0] < high)
        if len(chosen[tone]) < of_each:
            chosen[tone].append(person)
    return chosen


def scene_of(person: Portrait, seed: int, eyes: float) -> tuple[Scene, Box]:
    """The person on another day in front of a wall of any colours, and the face's box."""
    rng = np.random.default_rng(seed)
    sitting = another_sitting(person, rng)
    shot = plain_photo(sitting, rng, SIDE, eyes)
    wall = Image.fromarray(rng.integers(40, 220, (2, 2, 3), dtype=np.uint8)).resize((SIDE, SIDE))
    return Scene(LINEAR[stored(shot.light)], LINEAR[np.asarray(wall)], shot.cover[..., None]), shot.box


def read(photo: Pixels, box: Box, person: Portrait, encoder: Encoder) -> Reading:
    """Both sides on one photo."""
    crop = crop_face(photo, box)
    corrected = in_good_light(crop, photo, box)
    before, after, truth = encoder.skin(crop), encoder.skin(corrected), lab(person.skin)
    return Reading(
        float(deltaE_ciede2000(truth, before)),
        float(deltaE_ciede2000(truth, after)),
        float(after[0] - before[0]),
        not np.array_equal(crop, corrected),
        face_warnings(photo, box, None),
    )


def measure(persons: dict[str, list[Portrait]], encoder: Encoder) -> list[Row]:
    """Each light with each tone."""
    found: dict[tuple[Light, str], list[Reading]] = {(light, tone): [] for light in LIGHTS for tone in persons}
    for tone, some in persons.items():
        for seed, person in enumerate(tqdm(some, tone, mininterval=5)):
            for light, photo, box in photos_of(person, seed):
                found[light, tone].append(read(photo, box, person, encoder))
    return [summary(light, tone, seen) for (light, tone), seen in found.items()]


def photos_of(person: Portrait, seed: int) -> Iterator[tuple[Light, Pixels, Box]]:
    """The person in each light, and where the face is."""
    scenes = {eyes: scene_of(person, seed, eyes) for eyes in {light.eyes for light in LIGHTS}}
    for light in LIGHTS:
        scene, box = scenes[light.eyes]
        yield light, light.photo(scene), box


def summary(light: Light, tone: str, seen: Sequence[Reading]) -> Row:
    """The line of one light and tone."""
    warned = [bool(one.warnings) if light.warning is None else light.warning in one.warnings for one in seen]
    return Row(
        light.name,
        tone,
        len(seen),
        float(np.median([one.before for one in seen])),
        float(np.median([one.after for one in seen])),
        float(np.median([one.lighter for one in seen])),
        float(np.mean([one.is_changed for one in seen])),
        float(np.mean(warned)),
    )


def table(rows: Sequence[Row]) -> Table:
    """A line for each light and tone."""
    title = "Skin read by the embedded face encoder, CIEDE2000 from the truth"
    shown = Table("light", "skin", "before", "after", "L* lighter", "changed", "warned", title=title)
    for row in rows:
        figures = f"{row.before:.1f}", f"{row.after:.1f}", f"{row.lighter:+.1f}", f"{row.changed:.0%}"
        shown.add_row(row.light, row.tone, *figures, f"{row.warned:.0%}", end_section=row.tone == list(TONES)[-1])
    return shown


def sheet(persons: dict[str, list[Portrait]], of_each: int = 2) -> Image.Image:
    """Two rows a person, the crops before and after; a column for each light."""
    rows = []
    for some in persons.values():
        for seed, person in enumerate(some[:of_each]):
            seen = [(crop_face(photo, box), photo, box) for _, photo, box in photos_of(person, seed)]
            rows += [[crop for crop, _, _ in seen], [in_good_light(*one) for one in seen]]
    return contact_sheet(rows, cell=112)


def main() -> None:
    """Prints the table and writes the files that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--persons", type=int, default=20, help="of each tone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--sheet", type=Path, help="where a picture of some crops goes")
    options = parser.parse_args()
    persons = people(options.persons)
    rows = measure(persons, Encoder(options.weights, options.threads))
    Console(width=120).print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    if options.sheet:
        sheet(persons).save(options.sheet)


if __name__ == "__main__":
    main()

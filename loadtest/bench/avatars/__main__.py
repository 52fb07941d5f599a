"""The likeness of the embedded models' avatars to the person on the photo, against target bars.

    python -m loadtest.bench.avatars --json avatars.json --sheet avatars.png
    python -m loadtest.bench.avatars --blind photos --out sheets

Rendered persons have seeds outside of the training set. A small classifier trained on the renderer's labels reads what
an avatar shows; its own accuracy is in the table. Real photos come from installed packages. With the default of 120
references a share of 95% is known to within about 2% (some 400 avatars, 8 minutes on one core).

`--blind` measures nothing: of a folder of photos it writes shuffled sheets, each a photo beside four avatars of one
gender, and `key.json`, for people to judge by.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from deployments.background.model import RembgModel
from deployments.config import WEIGHTS, CascadeFaceModelConfig, MattingModelConfig
from deployments.embedded.training.evaluate.inference import GUIDANCE, STEPS, Studio, contact_sheet
from deployments.embedded.training.evaluate.judge import Judge
from deployments.embedded.training.renderer.figure import render
from deployments.embedded.training.renderer.portrait import Gender
from deployments.face.model import CascadeFaceModel
from loadtest.bench.avatars.blind import KEY, TooFewPhotosError, blind
from loadtest.bench.avatars.drawn import (
    COLD,
    Case,
    Drawn,
    Stranger,
    draw_cases,
    judge_scores,
    plainly,
    similarity_scores,
    strangers,
)
from loadtest.bench.avatars.matting import matting_scores
from loadtest.bench.avatars.photos import PhotoCase, draw_photo_cases, photo_scores
from loadtest.bench.avatars.scores import JUDGE, Score
from loadtest.bench.avatars.speed import measured_in_a_fresh_process

VIEWS = 4  # of every real face
STRANGERS = 300  # whom avatars are held against
RENDERS = 1600  # to measure the judge on
MATTED = 100  # renders
AVATAR_FACE = (0.202, 0.179, 0.802, 0.779)  # as in the service's config


@dataclass(frozen=True, slots=True)
class Work:
    """All avatars of one set of weights."""

    drawn: list[Case]
    strangers: list[Stranger]
    photos: list[PhotoCase]

    @classmethod
    def draw(cls, weights: Path, references: int, views: int) -> "Work":
        """Generates all avatars, for minutes, with progress on stderr; `views` are of each real face."""
        studio = Studio(weights)
        drawn = tqdm(draw_cases(studio, references), "drawn persons", references, mininterval=5)
        others = tqdm(strangers(studio, STRANGERS), "strangers", STRANGERS, mininterval=5)
        return cls(list(drawn), list(others), list(tqdm(draw_photo_cases(studio, views), "photos", mininterval=5)))


def measure(weights: Path, work: Work, judge: Judge) -> list[Score]:
    """All scores in the order of the table; the models of `weights` are loaded, for the speed in another process."""
    faces = face_model(weights)
    matting = RembgModel(MattingModelConfig(model_path=weights / "matting" / "u2net.onnx"))
    before_cold = [case.on_colour for case in work.drawn if case.colour in COLD]
    return [
        *judge_scores(judge, RENDERS),
        *Drawn(work.drawn, judge).scores(),
        *similarity_scores(work.drawn, work.strangers, faces),
        *photo_scores(work.photos, judge),
        *matting_scores(matting, before_cold, COLD, MATTED),
        *speed_scores(weights),
    ]


def face_model(weights: Path) -> CascadeFaceModel:
    """As the service loads it."""
    folder = weights / "face"
    return CascadeFaceModel(
        CascadeFaceModelConfig(
            encoder=folder / "encoder.onnx", likeness=folder / "likeness.onnx", avatar_face=AVATAR_FACE
        )
    )


def speed_scores(weights: Path) -> Iterator[Score]:
    """Seconds to load the diffusion model and to make one avatar, on two threads of another process."""
    speed = measured_in_a_fresh_process(weights, threads=2, steps=STEPS, guidance=GUIDANCE)
    yield Score("model loads in, s", speed.load_s, 3.0, at_most=True)
    note = f"256 px, {STEPS} steps, 2 threads; {speed.avatar_cpu_s:.2f} s of CPU"
    yield Score("one avatar in, s", speed.avatar_s, 2.0, at_most=True, note=note)


def table(scores: Sequence[Score]) -> Table:
    """A row for each score; one without a bar has nothing under `bar` and `met`."""
    shown = Table("measure", "value", "bar", "met", "", title="The embedded models on faces they never saw")
    for score in scores:
        met = {None: "", True: "yes", False: "no"}[score.met]
        shown.add_row(score.name, f"{score.value:.3f}", score.limit, met, score.note)
    return shown


def as_json(scores: Sequence[Score]) -> str:
    """A list of the scores, each with its bar in words (`limit`) and whether it is met: null without a bar."""
    return json.dumps([asdict(score) | {"limit": score.limit, "met": score.met} for score in scores], indent=2) + "\n"


def sheet(work: Work, count: int = 24) -> Image.Image:
    """Two cases a row: crop, wanted person, two seeds on black, one on colour. Below: real crops and their avatars."""
    rows = [
        [case.crop, np.asarray(render(plainly(case.wanted))[0]), *case.on_black[:2], case.on_colour]
        for case in work.drawn[:count]
    ]
    pairs = [[part for row in rows[i : i + 2] for part in row] for i in range(0, len(rows), 2)]
    photos = [[*case.crops, *case.avatars] for case in work.photos]
    return contact_sheet([*pairs, *photos], cell=160)


def main() -> None:
    """Prints the table and writes the files that are asked for. A missed bar does not change the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument(
        "--judge", type=Path, default=JUDGE, help="made by `python -m deployments.embedded.training judge`"
    )
    parser.add_argument("--references", type=int, default=120)
    parser.add_argument("--threads", type=int, default=1, help="of everything but the speed, which takes 2")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--sheet", type=Path, help="where a picture of some avatars goes")
    parser.add_argument(
        "--blind", type=Path, metavar="DIR", help="a folder of photos of people, to be judged by people"
    )
    parser.add_argument("--out", type=Path, default=Path("blind"), help="where the sheets and their key go")
    parser.add_argument(
        "--gender", choices=get_args(Gender), help="of all photos of --blind; by default as each is read"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.blind:
        try:
            count = blind(options.blind, options.out, options.gender, options.weights, face_model(options.weights))
        except (TooFewPhotosError, NotADirectoryError, FileNotFoundError) as error:
            parser.error(str(error))
        print(f"{count} sheets and {KEY} in {options.out}: do not open the key before all sheets are judged")
        return
    judge = Judge.load(options.judge)
    work = Work.draw(options.weights, options.references, VIEWS)
    scores = measure(options.weights, work, judge)
    Console(width=140).print(table(scores))
    if options.json:
        options.json.write_text(as_json(scores))
    if options.sheet:
        sheet(work).save(options.sheet)


if __name__ == "__main__":
    main()

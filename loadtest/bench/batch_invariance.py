"""How much other images in its batches change an image, by dtype and instruction set, and the cost of preventing it.

    python -m loadtest.bench.batch_invariance --json batch_invariance.json

Generates one image of the embedded model alone and batched with one to seven others, without
`generator.batch_invariant` and with it, in a separate process for each dtype and each instruction set of the processor
(Linux on x86-64). Differences are the largest of all batched images from the one alone. Times are the shortest of
several alternating rounds, for whole decoded images; CPU time says more where other programs use the same cores.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from deployments.config import AvatarGeneratorConfig
from deployments.types import AvatarSpec, Pixels
from loadtest.bench.instruction_sets import InstructionSet, wider_sets
from loadtest.bench.random_face import random_face

DTYPES = ("float32", "bfloat16")
MOST_OTHERS = 7
SIDE = 256  # pixels
SPIN = {"GOMP_SPINCOUNT": "30000"}  # as in the generator


class Drawn(NamedTuple):
    """Images generated in one batch: the first of them, and wall and CPU seconds an image."""

    first: Pixels
    image_s: float
    processor_s: float


@dataclass(frozen=True, slots=True)
class Invariance:
    """One image batched with others compared with itself alone: levels of 255, dB (None: equal), seconds an image."""

    instruction_set: str
    dtype: str
    batch_invariant: bool
    most_levels: int
    psnr_db: float | None
    alone_s: float
    amid_s: float  # with the maximum number of others
    alone_processor_s: float
    amid_processor_s: float


def draw(model: Any, images: int, steps: int) -> Drawn:
    """Generate images with a FaceDiffusionModel; the first has the same spec for any number of them."""
    started, used = time.perf_counter(), time.process_time()
    samples = [model.start(_spec(number, steps), random_face(number)) for number in range(images)]
    for _ in range(steps):
        model.step(samples)
    # As the engine decodes where others are left to draw: with one thread, so that none waits for another.
    first, *_others = [model.decode(sample, overlapped=images > 1) for sample in samples]
    return Drawn(first, (time.perf_counter() - started) / images, (time.process_time() - used) / images)


def measure(instruction_set: str, dtype: str, steps: int, others: int, rounds: int) -> list[Invariance]:
    """Measure without the mode and with it, in this process, with the instruction set of its environment."""
    from deployments.diffusion.model.denoiser import FaceDiffusionModel

    config = AvatarGeneratorConfig().models["embedded"].model_copy(update={"dtype": dtype})
    models = {mode: FaceDiffusionModel.load(config, mode) for mode in (False, True)}
    amid = {mode: [draw(model, 1 + count, steps) for count in range(1, others)] for mode, model in models.items()}
    timed: dict[bool, list[tuple[Drawn, Drawn]]] = {mode: [] for mode in models}
    for _ in range(rounds):
        for mode, model in models.items():
            timed[mode].append((draw(model, 1, steps), draw(model, 1 + others, steps)))
    return [_compared(instruction_set, dtype, mode, amid[mode], timed[mode]) for mode in models]


def _compared(
    instruction_set: str, dtype: str, mode: bool, amid: Sequence[Drawn], timed: Sequence[tuple[Drawn, Drawn]]
) -> Invariance:
    alone, full = zip(*timed, strict=True)
    truth = alone[0].first
    pictures = [each.first for each in (*amid, *full)]
    psnr_db = min(peak_signal_to_noise(picture, truth) for picture in pictures)
    return Invariance(
        instruction_set=instruction_set,
        dtype=dtype,
        batch_invariant=mode,
        most_levels=max(int(np.abs(picture.astype(int) - truth).max()) for picture in pictures),
        psnr_db=None if math.isinf(psnr_db) else round(psnr_db, 1),
        alone_s=round(min(each.image_s for each in alone), 3),
        amid_s=round(min(each.image_s for each in full), 3),
        alone_processor_s=round(min(each.processor_s for each in alone), 3),
        amid_processor_s=round(min(each.processor_s for each in full), 3),
    )


def peak_signal_to_noise(picture: Pixels, truth: Pixels) -> float:
    """In decibels; infinite where they are equal."""
    error = float(np.mean((picture.astype(float) - truth) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def measure_apart(
    instruction_set: InstructionSet, dtype: str, steps: int, others: int, rounds: int
) -> list[Invariance]:
    """The same in a process limited to this instruction set."""
    command = [sys.executable, "-m", "loadtest.bench.batch_invariance", "--here", instruction_set.name]
    command += ["--dtypes", dtype, "--steps", str(steps), "--others", str(others), "--rounds", str(rounds)]
    environment = {**os.environ, **SPIN, **instruction_set.environment}
    ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [Invariance(**found) for found in json.loads(ran.stdout.splitlines()[-1])]


def show(found: Sequence[Invariance], steps: int, others: int) -> None:
    """Prints a row for each instruction set, dtype and mode; `steps` and `others` are for the title."""
    table = Table(title=f"An image of {SIDE} pixels and {steps} steps amid up to {others} others, against itself alone")
    numbers = ("of 255", "PSNR, dB", "alone, s", "processor", f"amid {others}, s", "processor")
    for name in ("instruction set", "type", "batch-invariant"):
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    for each in found:
        mode, psnr = "on" if each.batch_invariant else "off", "equal" if each.psnr_db is None else f"{each.psnr_db}"
        times = (each.alone_s, each.alone_processor_s, each.amid_s, each.amid_processor_s)
        differences = (str(each.most_levels), psnr)
        table.add_row(each.instruction_set, each.dtype, mode, *differences, *(f"{seconds:.2f}" for seconds in times))
    Console(width=120).print(table)


def _spec(number: int, steps: int) -> AvatarSpec:
    """With guidance, so each takes two rows."""
    return AvatarSpec(
        model="embedded", seed=number, prompt=f"portrait of a {('woman', 'man', 'person')[number % 3]}",
        negative_prompt="", width=SIDE, height=SIDE, num_inference_steps=steps, guidance_scale=1.5, task_id="",
        image_index=number, submitted_at=0.0, deadline=math.inf,
    )  # fmt: skip


def main() -> None:
    """Measures each instruction set and dtype in a process of its own, or with `--here` one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--others", type=int, default=MOST_OTHERS, choices=range(1, MOST_OTHERS + 1))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--here", metavar="NAME", help=argparse.SUPPRESS)  # in a process of `measure_apart`
    options = parser.parse_args()
    extent = (options.steps, options.others, options.rounds)
    if options.here:
        (dtype,) = options.dtypes
        print(json.dumps([asdict(each) for each in measure(options.here, dtype, *extent)]))
        return
    sets = wider_sets()
    found = [each for one in sets for dtype in options.dtypes for each in measure_apart(one, dtype, *extent)]
    show(found, options.steps, options.others)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")


if __name__ == "__main__":
    main()

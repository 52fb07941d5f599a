"""What it costs that the images of a step wear LoRAs: the time of a step of eight images by how many they wear.

    python -m loadtest.bench.loras --json loras.json

The UNet of the embedded model in float32 on one thread, with random LoRAs. The numbers of LoRAs are tried in turn in
each round, so that other programs on the machine slow all alike; `ratio` is the median over the rounds of the processor
time with them to that with none.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from deployments.config import AvatarGeneratorConfig, LoraConfig
from deployments.diffusion.model.denoiser import FaceDiffusionModel, Sample
from deployments.types import AvatarSpec
from loadtest.bench.random_face import random_face
from loadtest.bench.random_lora import write_random_lora

ROWS = 8
SIDE = 256  # pixels
WORN = (0, 1, 4, 8)
MOST = 1.25


@dataclass(frozen=True, slots=True)
class Kind:
    """LoRAs of one rank for these layers."""

    name: str
    rank: int
    layers: tuple[type[nn.Module], ...]


KINDS = (
    Kind("rank 8, linear", 8, (nn.Linear,)),
    Kind("rank 8, linear and convolutions", 8, (nn.Linear, nn.Conv2d)),
    Kind("rank 32, linear", 32, (nn.Linear,)),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of the processor for a step of eight images, and the ratio to that of images without LoRA."""

    loras: str
    worn: int
    step_ms: float
    ratio: float


def step_s(model: FaceDiffusionModel, worn: int, seed: int) -> float:
    """Seconds of the processor for a step, with `worn` LoRAs among the eight images."""
    specs = [
        AvatarSpec(
            model="", seed=seed + number, prompt="a man", negative_prompt="", width=SIDE, height=SIDE,
            num_inference_steps=2, guidance_scale=1.0, task_id="", image_index=0, submitted_at=0.0, deadline=0.0,
            lora=str(number % worn) if worn else None,
        )
        for number in range(ROWS)
    ]  # fmt: skip
    samples: list[Sample] = [model.start(spec, random_face(spec.seed)) for spec in specs]
    model.step(samples)
    began_s = time.process_time()
    model.step(samples)
    return time.process_time() - began_s


def measure(kind: Kind, rounds: int, folder: Path) -> Iterator[Cost]:
    """The costs of one kind of LoRAs."""
    config = AvatarGeneratorConfig().models["embedded"].model_copy(update={"dtype": "float32", "threads": 1})
    unet = FaceDiffusionModel.load(config)._pipeline.unet
    files = [
        write_random_lora(folder / f"{number}.safetensors", unet, kind.layers, kind.rank, number)
        for number in range(ROWS)
    ]
    loras = {str(number): LoraConfig(file=file) for number, file in enumerate(files)}
    model = FaceDiffusionModel.load(config.model_copy(update={"loras": loras}))
    seconds: dict[int, list[float]] = {worn: [] for worn in WORN}
    for worn in WORN:
        step_s(model, worn, 0)  # warm-up
    for number in range(rounds):
        for worn in WORN:
            seconds[worn].append(step_s(model, worn, number))
    for worn in WORN:
        ratio = statistics.median(
            with_loras / without for with_loras, without in zip(seconds[worn], seconds[0], strict=True)
        )
        yield Cost(kind.name, worn, 1000 * statistics.median(seconds[worn]), ratio)


def main() -> None:
    """Prints a row for each kind of LoRA and number of them. More than `MOST` does not change the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        costs = [cost for kind in KINDS for cost in measure(kind, options.rounds, Path(folder))]
    table = Table("LoRAs", "worn by 8 images", "processor, ms a step", f"ratio (at most {MOST:g})")
    for cost in costs:
        table.add_row(cost.loras, str(cost.worn), f"{cost.step_ms:.0f}", f"{cost.ratio:.2f}")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=1))


if __name__ == "__main__":
    main()

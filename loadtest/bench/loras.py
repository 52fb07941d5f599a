"""What it costs that the images of a step wear LoRAs: the time of a step of eight images by what they wear.

    python -m loadtest.bench.loras --json loras.json

The UNet of the embedded model, and one block of SDXL's widest kind (1280 channels, prompts of 77 x 2048, latents of
16 x 16 there, as in images of 512 x 512), on one thread, with random LoRAs. The cases are tried in turn in each round,
so that other programs on the machine slow all alike; `ratio` is the median over the rounds of the processor time to
that of the same network without LoRAs in memory. "with a second" is one of the same rank, in all eight images.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from rich.console import Console
from rich.table import Table
from torch import nn

from deployments.config import AvatarGeneratorConfig, LoraConfig
from deployments.diffusion.model.denoiser import FaceDiffusionModel, Sample
from deployments.diffusion.model.lora_file import LoraFactors
from deployments.diffusion.model.row_lora import LoraSlots
from deployments.types import AvatarSpec
from loadtest.bench.random_face import random_face
from loadtest.bench.random_lora import random_factors, write_random_lora

ROWS = 8
SIDE = 256  # pixels of the embedded model
WIDTH, PROMPT_WIDTH, LATENTS = 1280, 2048, 16  # of SDXL's block
SECOND = "second"

LINEAR, ALL = (nn.Linear,), (nn.Linear, nn.Conv2d)
Worn = Sequence[tuple[str | None, str | None]]
"""The one or two LoRAs of each row."""

Step = Callable[[Worn, int], float]
"""Makes a step of rows that wear these, from a seed, and returns its seconds of the processor."""


@dataclass(frozen=True, slots=True)
class Kind:
    """LoRAs for these layers of a network; their ranks follow each other in turn."""

    network: Literal["embedded", "SDXL block"]
    name: str
    ranks: tuple[int, ...]
    layers: tuple[type[nn.Module], ...]
    most: float | None = None  # the ratio that eight different ones may cost

    def rank(self, number: int) -> int:
        """That of a LoRA by its number."""
        return self.ranks[number % len(self.ranks)]


KINDS = (
    Kind("embedded", "rank 8, linear", (8,), LINEAR),
    Kind("embedded", "rank 8, linear and convolutions", (8,), ALL, 1.25),
    Kind("embedded", "rank 32, linear", (32,), LINEAR),
    Kind("embedded", "ranks 4 and 128 in turn, linear", (4, 128), LINEAR),
    Kind("SDXL block", "rank 32, linear", (32,), LINEAR, 1.15),
    Kind("SDXL block", "ranks 4 and 128 in turn, linear", (4, 128), LINEAR),
    Kind("SDXL block", "rank 64, linear and convolutions", (64,), ALL),
)
CASES: dict[str, tuple[int, bool]] = {  # how many different ones, and whether all rows wear a second
    "none": (0, False),
    "1": (1, False),
    "4": (4, False),
    "8": (8, False),
    "8, with a second": (8, True),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of the processor for a step of eight images, and the ratio to that without LoRAs in memory."""

    network: str
    loras: str
    lora_mb: float  # of all nine together
    worn: str
    step_ms: float
    ratio: float
    most: float | None


class XLBlock(nn.Module):
    """The layers of one place of SDXL's UNet: a residual block, if convolutions count, and a transformer block."""

    def __init__(self, with_convolutions: bool) -> None:
        super().__init__()
        kind = {"in_channels": WIDTH, "out_channels": WIDTH, "temb_channels": WIDTH}
        self.residual = ResnetBlock2D(**kind) if with_convolutions else None
        self.attention = Transformer2DModel(
            num_attention_heads=WIDTH // 64, attention_head_dim=64, in_channels=WIDTH, num_layers=1,
            cross_attention_dim=PROMPT_WIDTH, use_linear_projection=True,
        )  # fmt: skip

    def forward(self, picture: torch.Tensor, times: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """(rows, 1280, h, w), (rows, 1280) and (rows, 77, 2048) to (rows, 1280, h, w)."""
        if self.residual is not None:
            picture = self.residual(picture, times)
        states: torch.Tensor = self.attention(picture, encoder_hidden_states=prompts, return_dict=False)[0]
        return states


def xl_steps(kind: Kind, dtype: torch.dtype) -> tuple[Step, Step, nn.Module]:
    """Without LoRAs and with them in memory, and the network that has them."""
    torch.manual_seed(0)
    without, network = (XLBlock(nn.Conv2d in kind.layers).to(dtype).eval() for _ in range(2))
    for each in (without, network):
        each.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    network.load_state_dict(without.state_dict())
    generator = torch.Generator().manual_seed(1)
    names = [name for name, layer in network.named_modules() if isinstance(layer, kind.layers)]
    loras = {}
    for number, lora in enumerate((*map(str, range(ROWS)), SECOND)):
        made = {name: random_factors(network.get_submodule(name), kind.rank(number), generator) for name in names}
        loras[lora] = {name: LoraFactors(down, up.flatten(1)) for name, (down, up) in made.items()}
    slots = LoraSlots(network, loras)

    @torch.inference_mode()
    def step_s(block: nn.Module, worn: Worn, seed: int) -> float:
        seeded = torch.Generator().manual_seed(seed)
        shapes = ((ROWS, WIDTH, LATENTS, LATENTS), (ROWS, WIDTH), (ROWS, 77, PROMPT_WIDTH))
        picture, times, prompts = (torch.randn(shape, generator=seeded).to(dtype) for shape in shapes)
        picture = picture.contiguous(memory_format=torch.channels_last)
        began_s = time.process_time()
        with slots.worn(torch.tensor([slots.worn_by(*names) for names in worn])):
            block(picture, times, prompts)
        return time.process_time() - began_s

    return (lambda _worn, seed: step_s(without, NONE, seed)), (lambda worn, seed: step_s(network, worn, seed)), network


def embedded_steps(kind: Kind, dtype: str, folder: Path) -> tuple[Step, Step, nn.Module]:
    """As `xl_steps`."""
    config = AvatarGeneratorConfig().models["embedded"].model_copy(update={"dtype": dtype, "threads": 1})
    without = FaceDiffusionModel.load(config)
    unet: Any = without._pipeline.unet
    loras = {
        name: LoraConfig(
            file=write_random_lora(folder / f"{name}.safetensors", unet, kind.layers, kind.rank(number), number)
        )
        for number, name in enumerate((*map(str, range(ROWS)), SECOND))
    }
    model = FaceDiffusionModel.load(config.model_copy(update={"loras": loras}))

    def step_s(drawing: FaceDiffusionModel, worn: Worn, seed: int) -> float:
        specs = [
            AvatarSpec(
                model="", seed=seed + number, prompt="a man", negative_prompt="", width=SIDE, height=SIDE,
                num_inference_steps=2, guidance_scale=1.0, task_id="", image_index=0, submitted_at=0.0, deadline=0.0,
                lora=lora, speed_lora=second,
            )
            for number, (lora, second) in enumerate(worn)
        ]  # fmt: skip
        samples: list[Sample] = [drawing.start(spec, random_face(spec.seed)) for spec in specs]
        drawing.step(samples)
        began_s = time.process_time()
        drawing.step(samples)
        return time.process_time() - began_s

    model_unet: Any = model._pipeline.unet
    return (lambda _worn, seed: step_s(without, NONE, seed)), (lambda worn, seed: step_s(model, worn, seed)), model_unet


NONE: Worn = [(None, None)] * ROWS


def worn_in(case: str) -> Worn:
    """By the eight rows."""
    different, has_second = CASES[case]
    return [(str(number % different) if different else None, SECOND if has_second else None) for number in range(ROWS)]


def measure(kind: Kind, rounds: int, dtype: str, folder: Path) -> Iterator[Cost]:
    """The costs of one kind of LoRAs."""
    if kind.network == "embedded":
        without, with_loras, network = embedded_steps(kind, dtype, folder)
    else:
        without, with_loras, network = xl_steps(kind, getattr(torch, dtype))
    held = [buffer for name, buffer in network.named_buffers() if name.endswith((".down", ".up"))]
    lora_mb = sum(buffer.nbytes for buffer in held) / 1e6
    seconds: dict[str, list[float]] = {case: [] for case in CASES}
    ratios: dict[str, list[float]] = {case: [] for case in CASES}
    for number in range(rounds + 1):  # the first warms up
        alone_s = without(NONE, number)
        for case in CASES:
            step_s = with_loras(worn_in(case), number)
            if number:
                seconds[case].append(step_s)
                ratios[case].append(step_s / alone_s)
    for case in CASES:
        step_ms = 1000 * statistics.median(seconds[case])
        yield Cost(kind.network, kind.name, lora_mb, case, step_ms, statistics.median(ratios[case]), kind.most)


def main() -> None:
    """Prints a row for each kind of LoRA and case. More than `most` does not change the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("network", "LoRAs", "MB of nine", "worn by 8 images", "processor, ms a step", "ratio", "of 8 at most")
    costs: list[Cost] = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            costs += measure(kind, options.rounds, options.dtype, Path(folder))
    for cost in costs:
        most = "" if cost.most is None or cost.worn != "8" else f"{cost.most:g}"
        table.add_row(
            cost.network, cost.loras, f"{cost.lora_mb:.1f}", cost.worn, f"{cost.step_ms:.0f}", f"{cost.ratio:.2f}", most
        )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=1))


if __name__ == "__main__":
    main()

"""What LoRAs cost a server, measured on this CPU: the slots of the engine, and the adapters of diffusers and peft.

The times of steps are ratios on one block of SDXL's widths. What it takes to activate another adapter depends on the
number of layers and not on their widths, since no weights move: it is measured on a UNet that has all of SDXL's layers
and an eighth to a tenth of their widths, and needs no scaling.
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from loadtest.bench.loras import CASES, LATENTS, LINEAR, PROMPT_WIDTH, ROWS, WIDTH, Kind, XLBlock, measure

SLOTS = Kind("SDXL block", "rank 32, linear", (32,), LINEAR)
SDXL_LAYERS: dict[str, Any] = {  # as published, but for the widths
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 32,
    "block_out_channels": (32, 64, 128),
    "attention_head_dim": (1, 2, 4),
    "cross_attention_dim": 64,
}


@dataclass(frozen=True, slots=True)
class LoraCosts:
    """Times of a step of eight images, to that without LoRAs, and seconds of the processor between two batches."""

    slots_same: float  # all wear the same
    slots_mixed: float  # each another
    peft: float  # all have one adapter, beside others that are not active
    swap_s: float  # from one adapter to another, or to none and back: `set_adapters`, `disable_lora`, `enable_lora`
    swapped_layers: int

    def slots(self, styles: Sequence[str | None]) -> float:
        """A step of the engine, whose images have these styles."""
        if not any(styles):
            return 1.0
        return self.slots_same if len(set(styles)) == 1 else self.slots_mixed

    def adapter(self, styles: Sequence[str | None]) -> float:
        """A step of a pipeline of the library, whose images have the same style, or none."""
        return self.peft if styles[0] else 1.0


def lora_costs(styles: Sequence[str], rounds: int) -> LoraCosts:
    """On one thread; medians over the rounds."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        by_case = dict(zip(CASES, measure(SLOTS, rounds, "float32", Path(folder)), strict=True))
    swap_s, layers = swap(styles, rounds)
    return LoraCosts(by_case["1"].ratio, by_case["8"].ratio, adapter_ratio(styles, rounds), swap_s, layers)


def swap(styles: Sequence[str], rounds: int) -> tuple[float, int]:
    """The mean over the changes of a round through all styles and none, of the medians; and the number of layers.

    In such a round changes between two styles, to none and from none are as frequent as amid requests of all evenly.
    """
    unet = UNet2DConditionModel(**SDXL_LAYERS).eval()
    _add_adapters(unet, styles)
    layers = sum(hasattr(layer, "lora_A") for layer in unet.modules())
    changes = list(pairwise((None, *styles, None)))
    seconds: dict[tuple[str | None, str | None], list[float]] = {change: [] for change in changes}
    _activate(unet, styles[-1], None)
    for change in changes * rounds:
        began_s = time.process_time()
        _activate(unet, *change)
        seconds[change].append(time.process_time() - began_s)
    return statistics.fmean(map(statistics.median, seconds.values())), layers


def _activate(unet: Any, before: str | None, after: str | None) -> None:
    """As the pipeline's methods of these names do for its UNet."""
    if after is None:
        unet.disable_lora()
        return
    if before is None:
        unet.enable_lora()
    unet.set_adapters([after], [1.0])


@torch.inference_mode()
def adapter_ratio(styles: Sequence[str], rounds: int) -> float:
    """A step of peft's layers with one active adapter of `SLOTS`, to that of the block alone."""
    torch.manual_seed(0)
    alone, adapted = (XLBlock(with_convolutions=False).eval() for _ in range(2))
    names = [name for name, layer in adapted.named_modules() if isinstance(layer, SLOTS.layers)]
    config = LoraConfig(r=SLOTS.rank(0), target_modules=names, init_lora_weights=False)
    with warnings.catch_warnings(action="ignore"):  # peft warns of a second adapter
        for style in styles:
            inject_adapter_in_model(config, adapted, adapter_name=style)
    picture, times = torch.randn(ROWS, WIDTH, LATENTS, LATENTS), torch.randn(ROWS, WIDTH)
    prompts = torch.randn(ROWS, 77, PROMPT_WIDTH)

    def step_s(block: nn.Module) -> float:
        began_s = time.process_time()
        block(picture, times, prompts)
        return time.process_time() - began_s

    step_s(alone), step_s(adapted)  # warms up
    return statistics.median(step_s(adapted) / step_s(alone) for _ in range(rounds))


def _add_adapters(unet: Any, styles: Sequence[str]) -> None:
    """To all linear layers of its transformer blocks; of rank 1, since no product is computed."""
    names = [name for name, layer in unet.named_modules() if isinstance(layer, nn.Linear) and ".attentions." in name]
    with warnings.catch_warnings(action="ignore"):  # peft warns of a second adapter
        for style in styles:
            unet.add_adapter(LoraConfig(r=1, target_modules=names), adapter_name=style)

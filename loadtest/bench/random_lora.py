"""LoRAs of random numbers."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

OF_FACES = re.compile(r"_ip$|^encoder_hid_proj")  # the face adapter's layers


def write_random_lora(path: Path, unet: nn.Module, kinds: tuple[type[nn.Module], ...], rank: int, seed: int) -> Path:
    """A file as diffusers writes it, for all layers of the UNet that are of these kinds."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}
    for name, layer in unet.named_modules():
        if isinstance(layer, kinds) and not OF_FACES.search(name):
            down, up = random_factors(layer, rank, generator)
            weights |= {f"unet.{name}.lora.down.weight": down, f"unet.{name}.lora.up.weight": up}
    save_file(weights, path)
    return path


def random_factors(layer: Any, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(rank, in) and (out, rank), of a convolution (rank, in, height, width) and (out, rank, 1, 1)."""
    inputs = layer.weight[0].shape
    down = torch.randn(rank, *inputs, generator=generator) / inputs.numel() ** 0.5
    up = torch.randn(layer.weight.shape[0], rank, generator=generator) * 0.3
    return down, up if len(inputs) == 1 else up[:, :, None, None]

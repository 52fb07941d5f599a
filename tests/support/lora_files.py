"""LoRA files for the UNet of a tiny model, in the formats of those that are published."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from loadtest.bench.random_lora import random_factors

LoraFormat = Literal["kohya", "peft", "diffusers"]
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
LINEAR = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
PROJECTION = "text_projection"  # of encoders that also give a vector for the whole prompt
CLIP = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", PROJECTION)
ALL = (*LINEAR, "conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv")


def write_lora(
    path: Path, unet: Any, file_format: LoraFormat, endings: tuple[str, ...] = ALL, rank: int = 4, seed: int = 1
) -> Path:
    """Random weights for the layers whose names end so; they count by an alpha that is not the rank."""
    generator = torch.Generator().manual_seed(seed)
    if file_format == "peft":
        _write_by_peft(path, unet, endings, rank, generator)
        return path
    weights = {}
    for name in layers_of(unet, endings):
        down, up = random_factors(unet.get_submodule(name), rank, generator)
        if file_format == "kohya":
            name = f"lora_unet_{name.replace('.', '_')}"
            weights |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
            weights[f"{name}.alpha"] = torch.tensor(rank / 2)
        else:
            weights |= {f"unet.{name}.lora.down.weight": down, f"unet.{name}.lora.up.weight": up}
    save_file(weights, path)
    return path


def add_text_lora(
    path: Path, encoders: Mapping[str, Any], file_format: LoraFormat, endings: tuple[str, ...], rank: int, seed: int
) -> None:
    """Adds random weights for these text encoders, by the names that pipelines have for them, to a file."""
    generator = torch.Generator().manual_seed(seed)
    weights = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    for part, encoder in encoders.items():
        for name in layers_of(encoder, endings):
            down, up = random_factors(encoder.get_submodule(name), rank, generator)
            published = name if name == PROJECTION else f"text_model.{name.removeprefix('text_model.')}"
            if file_format == "kohya":
                short = "lora_te2" if part == "text_encoder_2" else "lora_te1" if len(encoders) > 1 else "lora_te"
                own = f"{short}_{published.replace('.', '_')}"
                weights |= {f"{own}.lora_down.weight": down, f"{own}.lora_up.weight": up}
                weights[f"{own}.alpha"] = torch.tensor(rank / 2)
            else:
                own = f"{part}.{published}"
                ends = (
                    ("lora_A", "lora_B")
                    if file_format == "peft"
                    else ("lora_linear_layer.down", "lora_linear_layer.up")
                )
                weights |= {f"{own}.{end}.weight": each for end, each in zip(ends, (down, up), strict=True)}
    save_file(weights, path, metadata)


def layers_of(unet: Any, endings: tuple[str, ...]) -> list[str]:
    """The names of the layers whose names end so."""
    found = [
        name
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and any(f".{name}".endswith(f".{ending}") for ending in endings)
    ]
    assert found
    return found


def _write_by_peft(path: Path, unet: Any, endings: tuple[str, ...], rank: int, generator: torch.Generator) -> None:
    """As diffusers' training scripts do, which write their settings beside the weights."""
    layers = layers_of(unet, endings)
    some = dict.fromkeys(layers[::3], 2 * rank)
    config = LoraConfig(
        r=rank, lora_alpha=rank / 2, target_modules=layers, rank_pattern=some, alpha_pattern={layers[1]: 3.0}
    )  # fmt: skip
    unet.add_adapter(config)  # with `lora_B` of zeros
    for name, parameter in unet.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.3, generator=generator)
    StableDiffusionXLPipeline.save_lora_weights(
        path.parent,
        unet_lora_layers=get_peft_model_state_dict(unet),
        weight_name=path.name,
        **_collate_lora_metadata({"unet": unet}),
    )

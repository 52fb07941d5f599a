"""LoRA files for the transformer of a tiny FLUX.2 klein, in the formats of those that are published."""

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import Flux2KleinPipeline
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

KleinLoraFormat = Literal["peft", "original", "kohya"]
OF_DOUBLE = {  # the original names, and those of diffusers
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.linear_in",),
    "img_mlp.2": ("ff.linear_out",),
    "txt_mlp.0": ("ff_context.linear_in",),
    "txt_mlp.2": ("ff_context.linear_out",),
}
OF_SINGLE = {"linear1": ("attn.to_qkv_mlp_proj",), "linear2": ("attn.to_out",)}


def write_klein_lora(path: Path, transformer: Any, file_format: KleinLoraFormat, rank: int, seed: int) -> Path:
    """Random weights for all layers of the blocks; kohya's and peft's count by an alpha that is not the rank."""
    generator = torch.Generator().manual_seed(seed)
    if file_format == "peft":
        _write_by_peft(path, transformer, rank, generator)
        return path
    weights: dict[str, torch.Tensor] = {}
    for name, layers in _original_layers(transformer).items():
        down = torch.randn(rank, layers[0].in_features, generator=generator) / layers[0].in_features ** 0.5
        up = torch.randn(sum(layer.out_features for layer in layers), rank, generator=generator) * 0.1
        if file_format == "kohya":
            name = f"lora_unet_{name.replace('.', '_')}"
            weights |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
            weights[f"{name}.alpha"] = torch.tensor(rank / 2)
        else:
            weights |= {f"diffusion_model.{name}.lora_A.weight": down, f"diffusion_model.{name}.lora_B.weight": up}
    save_file(weights, path)
    return path


def _original_layers(transformer: Any) -> dict[str, list[nn.Linear]]:
    blocks = {
        "double_blocks": (transformer.transformer_blocks, OF_DOUBLE),
        "single_blocks": (transformer.single_transformer_blocks, OF_SINGLE),
    }
    return {
        f"{kind}.{number}.{name}": [block.get_submodule(layer) for layer in layers]
        for kind, (of_kind, names) in blocks.items()
        for number, block in enumerate(of_kind)
        for name, layers in names.items()
    }


def _write_by_peft(path: Path, transformer: Any, rank: int, generator: torch.Generator) -> None:
    """As diffusers' training scripts do: all linear layers, the embedders' and the modulations', too."""
    layers = [name for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)]
    some = dict.fromkeys(layers[::3], 2 * rank)
    config = LoraConfig(r=rank, lora_alpha=rank / 2, target_modules=layers, rank_pattern=some, use_rslora=True)
    transformer.add_adapter(config)  # with `lora_B` of zeros
    for name, parameter in transformer.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.03, generator=generator)
    Flux2KleinPipeline.save_lora_weights(
        path.parent,
        transformer_lora_layers=get_peft_model_state_dict(transformer),
        weight_name=path.name,
        **_collate_lora_metadata({"transformer": transformer}),
    )

"""Tiny models in the formats of the real ones: diffusers folders, IP-Adapters, their image encoder, LoRA files.

Weights are random, but the same in every run, and strong enough that prompts and faces show in the pixels.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from deployments.diffusion.model.ip_adapter import IPAdapter, Weights
from loadtest.bench.published_formats import (
    AttentionLora,
    attention_lora,
    face_attention_shapes,
    letter_tokenizer,
    numbered,
    save_adapter,
    save_lora,
    save_pipeline,
)

Family = Literal["sd", "sdxl"]
FileFormat = Literal["bin", "safetensors"]

TOKENS = 4  # of a face
LORA_RANK = 4
TEXT_WIDTH = 32
CLIP_WIDTH = 32
PLUS_WIDTH, PLUS_HEADS, PLUS_HEAD_WIDTH, PLUS_TOKENS = 64, 1, 64, 16  # the head's width is what diffusers assumes
CONTEXT_WIDTH: dict[Family, int] = {"sd": TEXT_WIDTH, "sdxl": 2 * TEXT_WIDTH}
SD_SAFETY = {
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
}


def write_tiny_sd(folder: Path, variant: str | None = None) -> None:
    """Stable Diffusion 1.5 in small. Lists a safety checker, as the real one does, without bringing its files."""
    torch.manual_seed(15)
    pipeline = StableDiffusionPipeline(
        vae=_vae(force_upcast=False),
        text_encoder=_loud(CLIPTextModel(_text_config())),
        tokenizer=letter_tokenizer(pad="<|endoftext|>"),
        unet=tiny_unet("sd"),
        scheduler=PNDMScheduler(**_noise_schedule(), skip_prk_steps=True, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    save_pipeline(pipeline, folder, variant)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | SD_SAFETY | {"requires_safety_checker": True}))


def write_tiny_sdxl(folder: Path, variant: str | None = None) -> None:
    """SDXL in small: two text encoders, the second of which pads with `!`, and time ids."""
    torch.manual_seed(10)
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(force_upcast=True),
        text_encoder=CLIPTextModel(_text_config()),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(hidden_act="gelu")),
        tokenizer=letter_tokenizer(pad="<|endoftext|>"),
        tokenizer_2=letter_tokenizer(pad="!"),
        unet=tiny_unet("sdxl"),
        scheduler=EulerDiscreteScheduler(**_noise_schedule(), timestep_spacing="leading"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    save_pipeline(pipeline, folder, variant)


def write_tiny_model(folder: Path, family: Family, variant: str | None = None) -> None:
    (write_tiny_sd if family == "sd" else write_tiny_sdxl)(folder, variant)


def write_faceid_adapter(folder: Path, family: Family, file_format: FileFormat, lora: bool) -> Path:
    """An IP-Adapter FaceID for the tiny model, with its LoRA weights inside where `lora`; returns the file's path."""
    torch.manual_seed(1)
    width = CONTEXT_WIDTH[family]
    projection = {
        "proj.0.weight": torch.randn(1024, 512) * 0.2,
        "proj.0.bias": torch.zeros(1024),
        "proj.2.weight": torch.randn(TOKENS * width, 1024),
        "proj.2.bias": torch.zeros(TOKENS * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    attention = _face_attention(family) | (numbered(_lora(family)) if lora else {})
    path = folder / f"ip-adapter-faceid-{family}{'-lora' if lora else ''}.{file_format}"
    save_adapter(IPAdapter(projection, attention), path)
    return path


def write_plus_adapter(folder: Path, family: Family) -> Path:
    """An IP-Adapter Plus for the tiny model and the tiny image encoder; returns the file's path."""
    torch.manual_seed(3)
    width, inner = CONTEXT_WIDTH[family], PLUS_HEADS * PLUS_HEAD_WIDTH
    weights: dict[str, torch.Tensor] = {
        "latents": torch.randn(1, PLUS_TOKENS, PLUS_WIDTH),
        "proj_in.weight": torch.randn(PLUS_WIDTH, CLIP_WIDTH) * 0.3,
        "proj_in.bias": torch.zeros(PLUS_WIDTH),
        "proj_out.weight": torch.randn(width, PLUS_WIDTH) * 0.3,
        "proj_out.bias": torch.zeros(width),
        "norm_out.weight": torch.ones(width),
        "norm_out.bias": torch.zeros(width),
    }
    for layer in range(4):
        attention, forward = f"layers.{layer}.0", f"layers.{layer}.1"
        for norm in (f"{attention}.norm1", f"{attention}.norm2", f"{forward}.0"):
            weights |= {f"{norm}.weight": torch.ones(PLUS_WIDTH), f"{norm}.bias": torch.zeros(PLUS_WIDTH)}
        weights |= {
            f"{attention}.to_q.weight": torch.randn(inner, PLUS_WIDTH) * 0.3,
            f"{attention}.to_kv.weight": torch.randn(2 * inner, PLUS_WIDTH) * 0.3,
            f"{attention}.to_out.weight": torch.randn(PLUS_WIDTH, inner) * 0.3,
            f"{forward}.1.weight": torch.randn(4 * PLUS_WIDTH, PLUS_WIDTH) * 0.3,
            f"{forward}.3.weight": torch.randn(PLUS_WIDTH, 4 * PLUS_WIDTH) * 0.3,
        }
    path = folder / f"ip-adapter-plus-face-{family}.safetensors"
    named = {f"image_proj.{name}": weight for name, weight in weights.items()}
    save_file(named | {f"ip_adapter.{name}": weight for name, weight in _face_attention(family).items()}, path)
    return path


def write_image_encoder(folder: Path) -> Path:
    """CLIP's vision model in small, for pictures of 32 pixels; returns its folder."""
    torch.manual_seed(4)
    config = CLIPVisionConfig(
        hidden_size=CLIP_WIDTH,
        intermediate_size=2 * CLIP_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        projection_dim=CLIP_WIDTH,
        initializer_factor=3.0,
    )
    path = folder / "image_encoder"
    CLIPVisionModelWithProjection(config).save_pretrained(path)
    return path


def write_faceid_lora(folder: Path, family: Family) -> Path:
    """The LoRA weights of the adapter as a file of their own, named as the published ones are."""
    path = folder / f"ip-adapter-faceid-{family}_lora.safetensors"
    save_lora(_lora(family), path)
    return path


def tiny_unet(family: Family) -> UNet2DConditionModel:
    """Two levels, attention on the lower one, as deep as it gets in a second."""
    extra: dict[str, Any] = {"attention_head_dim": 4}
    if family == "sdxl":
        extra = {
            "attention_head_dim": (2, 4),
            "use_linear_projection": True,
            "transformer_layers_per_block": (1, 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + TEXT_WIDTH,
        }
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=CONTEXT_WIDTH[family],
        **extra,
    )


def _noise_schedule() -> dict[str, Any]:
    return {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def _vae(force_upcast: bool) -> AutoencoderKL:
    """Eight pixels a latent, like the real one."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        force_upcast=force_upcast,
    )


def _text_config(**changes: Any) -> CLIPTextConfig:
    # The published encoders have 2 as their end token, a slip that transformers reads as "the highest token".
    return CLIPTextConfig(
        vocab_size=514,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=TEXT_WIDTH,
        bos_token_id=0,
        eos_token_id=2,
        initializer_factor=3.0,  # one letter more changes the picture, a rounding error does not
        **changes,
    )


def _loud(text_encoder: CLIPTextModel) -> CLIPTextModel:
    """With a last layer that is heard, which random weights are not."""
    with torch.no_grad():
        text_encoder.final_layer_norm.weight.mul_(6)
    return text_encoder


def _face_attention(family: Family) -> Weights:
    shapes = face_attention_shapes(tiny_unet(family))
    return {f"{number}.to_{kind}_ip.weight": torch.randn(shape) for number, shape in shapes.items() for kind in "kv"}


def _lora(family: Family) -> list[AttentionLora]:
    """Of every attention layer of the tiny UNet."""
    return list(attention_lora(tiny_unet(family), LORA_RANK, 0.2, torch.Generator().manual_seed(2)))

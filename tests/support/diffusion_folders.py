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
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

Family = Literal["sd", "sdxl"]
FileFormat = Literal["bin", "safetensors"]
Tensors = dict[str, torch.Tensor]

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
        tokenizer=_tokenizer(pad="<|endoftext|>"),
        unet=tiny_unet("sd"),
        scheduler=PNDMScheduler(**_noise_schedule(), skip_prk_steps=True, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, variant=variant)
    _as_published(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | SD_SAFETY | {"requires_safety_checker": True}))


def write_tiny_sdxl(folder: Path, variant: str | None = None) -> None:
    """SDXL in small: two text encoders, the second of which pads with `!`, and time ids."""
    torch.manual_seed(10)
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(force_upcast=True),
        text_encoder=CLIPTextModel(_text_config()),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(hidden_act="gelu")),
        tokenizer=_tokenizer(pad="<|endoftext|>"),
        tokenizer_2=_tokenizer(pad="!"),
        unet=tiny_unet("sdxl"),
        scheduler=EulerDiscreteScheduler(**_noise_schedule(), timestep_spacing="leading"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder, variant=variant)
    _as_published(folder)


def write_tiny_model(folder: Path, family: Family, variant: str | None = None) -> None:
    (write_tiny_sd if family == "sd" else write_tiny_sdxl)(folder, variant)


def write_faceid_adapter(folder: Path, family: Family, file_format: FileFormat, lora: bool) -> Path:
    """An IP-Adapter FaceID for the tiny model, with its LoRA weights inside where `lora`; returns the file's path."""
    torch.manual_seed(1)
    width = CONTEXT_WIDTH[family]
    parts = {
        "image_proj": {
            "proj.0.weight": torch.randn(1024, 512) * 0.2,
            "proj.0.bias": torch.zeros(1024),
            "proj.2.weight": torch.randn(TOKENS * width, 1024),
            "proj.2.bias": torch.zeros(TOKENS * width),
            "norm.weight": torch.ones(width),
            "norm.bias": torch.zeros(width),
        },
        "ip_adapter": _face_attention(family) | (_numbered_lora(family) if lora else {}),
    }
    path = folder / f"ip-adapter-faceid-{family}{'-lora' if lora else ''}.{file_format}"
    if file_format == "bin":
        torch.save(parts, path)
    else:
        save_file(
            {f"{part}.{name}": weight for part, weights in parts.items() for name, weight in weights.items()}, path
        )
    return path


def write_plus_adapter(folder: Path, family: Family) -> Path:
    """An IP-Adapter Plus for the tiny model and the tiny image encoder; returns the file's path."""
    torch.manual_seed(3)
    width, inner = CONTEXT_WIDTH[family], PLUS_HEADS * PLUS_HEAD_WIDTH
    weights: Tensors = {
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
    tensors: Tensors = {}
    for layer, kind, down, up in _lora_weights(family):
        name = f"lora_unet_{layer}.{kind}".replace(".", "_") + ("_0" if kind == "to_out" else "")
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    path = folder / f"ip-adapter-faceid-{family}_lora.safetensors"
    save_file(tensors, path)
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


def _tokenizer(pad: str) -> CLIPTokenizer:
    """CLIP's byte-level tokenizer without merges: a token a letter."""
    letters = sorted(ByteLevel.alphabet())
    words = ["!", *(letter for letter in letters if letter != "!"), *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocabulary, [], pad_token=pad, model_max_length=77)


def _as_published(folder: Path) -> None:
    """With the names of the files and weights that the published folders have, which are older than the libraries."""
    for path in folder.glob("tokenizer*/tokenizer.json"):
        vocabulary = json.loads(path.read_text())["model"]["vocab"]
        (path.parent / "vocab.json").write_text(json.dumps(vocabulary))
        (path.parent / "merges.txt").write_text("#version: 0.2\n")
        path.unlink()
    for path in folder.glob("text_encoder/*.safetensors"):
        weights = {f"text_model.{name}": weight for name, weight in load_file(path).items()}
        positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
        save_file(weights | positions, path, metadata={"format": "pt"})
    for path in folder.glob("vae/*.safetensors"):
        save_file({_older(name): weight for name, weight in load_file(path).items()}, path, metadata={"format": "pt"})


def _older(name: str) -> str:
    for today, before in {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}.items():
        name = name.replace(today, before)
    return name


def _face_attention(family: Family) -> Tensors:
    unet = tiny_unet(family)
    shapes = {
        number: unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
        for number, name in enumerate(unet.attn_processors)
        if name.endswith("attn2.processor")
    }
    return {f"{number}.to_{kind}_ip.weight": torch.randn(shape) for number, shape in shapes.items() for kind in "kv"}


def _numbered_lora(family: Family) -> Tensors:
    """Named as in the adapter's own file: by the number of the attention layer."""
    numbers = {name.removesuffix(".processor"): number for number, name in enumerate(tiny_unet(family).attn_processors)}
    tensors: Tensors = {}
    for layer, kind, down, up in _lora_weights(family):
        name = f"{numbers[layer]}.{kind}_lora"
        tensors |= {f"{name}.down.weight": down, f"{name}.up.weight": up}
    return tensors


def _lora_weights(family: Family) -> list[tuple[str, str, torch.Tensor, torch.Tensor]]:
    """(layer, to_q|to_k|to_v|to_out, down, up) of every attention layer of the tiny UNet."""
    unet, generator = tiny_unet(family), torch.Generator().manual_seed(2)
    weights = []
    for name in unet.attn_processors:
        attention = unet.get_submodule(name.removesuffix(".processor"))
        linears = {
            "to_q": attention.to_q,
            "to_k": attention.to_k,
            "to_v": attention.to_v,
            "to_out": attention.to_out[0],
        }
        for kind, linear in linears.items():
            down = torch.randn(LORA_RANK, linear.in_features, generator=generator) * 0.2
            up = torch.randn(linear.out_features, LORA_RANK, generator=generator) * 0.2
            weights.append((name.removesuffix(".processor"), kind, down, up))
    return weights

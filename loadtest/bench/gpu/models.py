"""SDXL and Stable Diffusion 1.5 with IP-Adapter FaceID in their published shapes, with random weights.

The weights are made on the device, so nothing is downloaded. A step takes as long with them as with trained ones.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from deployments.diffusion.model.ip_adapter import FACE_WIDTH, IPAdapter, Weights
from deployments.diffusion.model.loader import FacePipeline, SDFacePipeline, SDXLFacePipeline
from loadtest.bench.published_formats import attention_lora, face_attention_shapes, letter_tokenizer, numbered

Config = Mapping[str, Any]

PIXELS_OF_LATENT = 8
FACE_TOKENS = 4
PROJECTION_WIDTH = 1024  # of the adapter's hidden layer
WEIGHT_STD = 0.02
TEXT_PARTS = (("", CLIPTextModel, "<|endoftext|>"), ("_2", CLIPTextModelWithProjection, "!"))  # name, encoder, padding


@dataclass(frozen=True, slots=True)
class Architecture:
    """The configurations of the parts of a model, with one or two text encoders."""

    family: type[FacePipeline]
    scheduler: Config  # names its class
    unet: Config
    vae: Config
    text_encoders: tuple[Config, ...]
    sizes_px: tuple[int, ...]  # of the measured squares

    @property
    def own_size_px(self) -> int:
        """The image size that the model was trained for."""
        return int(self.unet["sample_size"]) * PIXELS_OF_LATENT

    def tiny(self, unet: Config) -> "Architecture":
        """The same with few channels."""
        text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
        text |= {"vocab_size": 514, "projection_dim": 32}
        return replace(
            self,
            unet={**self.unet, **unet, "sample_size": 8, "norm_num_groups": 8, "layers_per_block": 1},
            vae={**self.vae, "block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1},
            text_encoders=tuple({**config, **text} for config in self.text_encoders),
            sizes_px=(64,),
        )


NOISE: Config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
VAE: Config = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
CLIP_L: Config = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
CLIP_BIG_G: Config = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}

FULL: Mapping[str, Architecture] = {
    "sdxl": Architecture(
        family=SDXLFacePipeline,
        scheduler={**NOISE, "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
        unet={
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 2,
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        vae={**VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        text_encoders=(CLIP_L, CLIP_BIG_G),
        sizes_px=(512, 768, 1024),
    ),
    "sd15": Architecture(
        family=SDFacePipeline,
        scheduler={**NOISE, "_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False},
        unet={
            "sample_size": 64,
            "block_out_channels": (320, 640, 1280, 1280),
            "layers_per_block": 2,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        },
        vae={**VAE, "sample_size": 512, "scaling_factor": 0.18215},
        text_encoders=(CLIP_L,),
        sizes_px=(512, 768),
    ),
}

TINY: Mapping[str, Architecture] = {
    "sdxl": FULL["sdxl"].tiny(
        {
            "block_out_channels": (16, 32, 32),
            "cross_attention_dim": 64,
            "attention_head_dim": (2, 4, 4),
            "transformer_layers_per_block": 1,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 32,
        }
    ),
    "sd15": FULL["sd15"].tiny(
        {"block_out_channels": (16, 32, 32, 32), "cross_attention_dim": 32, "attention_head_dim": 4}
    ),
}


def random_pipeline(architecture: Architecture, device: torch.device, dtype: torch.dtype) -> FacePipeline:
    """All parts but the face adapter."""
    with made_on(device, dtype):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(**architecture.unet).eval(),
            "vae": AutoencoderKL(**architecture.vae).eval(),
        }
        for (end, model, pad), config in zip(TEXT_PARTS, architecture.text_encoders, strict=False):
            # The published encoders have 2 as their end token, which transformers reads as "the highest token".
            text_config = CLIPTextConfig(**config, bos_token_id=0, eos_token_id=2)
            parts |= {f"text_encoder{end}": model(text_config).eval(), f"tokenizer{end}": letter_tokenizer(pad)}
    family = architecture.family
    scheduler = getattr(diffusers, architecture.scheduler["_class_name"]).from_config(architecture.scheduler)
    pipeline: FacePipeline = family(**parts, scheduler=scheduler, **family.left_out)
    return pipeline


def add_face_adapter(pipeline: FacePipeline) -> None:
    """Add the face's attention layers to the UNet."""
    adapter = random_adapter(pipeline.unet)
    adapter.check_fits(pipeline.unet)
    weights = adapter.state_dict(with_lora=False)
    pipeline.load_ip_adapter(weights, subfolder="", weight_name="", image_encoder_folder=None)
    pipeline.set_ip_adapter_scale(1.0)


def random_adapter(unet: UNet2DConditionModel, lora_rank: int | None = None) -> IPAdapter:
    """An IP-Adapter FaceID for this UNet; LoRA weights are fused and cost no time, so there are none by default."""
    width = unet.config.cross_attention_dim

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=unet.device, dtype=unet.dtype) * WEIGHT_STD

    projection: Weights = {
        "proj.0.weight": normal(PROJECTION_WIDTH, FACE_WIDTH),
        "proj.0.bias": normal(PROJECTION_WIDTH),
        "proj.2.weight": normal(FACE_TOKENS * width, PROJECTION_WIDTH),
        "proj.2.bias": normal(FACE_TOKENS * width),
        "norm.weight": normal(width) + 1,
        "norm.bias": normal(width),
    }
    shapes = face_attention_shapes(unet)
    attention = {f"{number}.to_{kind}_ip.weight": normal(*shape) for number, shape in shapes.items() for kind in "kv"}
    if lora_rank is not None:
        attention |= numbered(list(attention_lora(unet, lora_rank, WEIGHT_STD)))
    return IPAdapter(projection, attention)


def weights_of(pipeline: FacePipeline) -> tuple[int, int, float]:
    """Parameters of the UNet without the face adapter, those of the adapter, and the GiB of all networks."""
    unet, adapter = 0, 0
    for name, weight in pipeline.unet.named_parameters():
        if "_ip." in name or name.startswith("encoder_hid_proj."):
            adapter += weight.numel()
        else:
            unet += weight.numel()
    networks = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    size_bytes = sum(weight.nbytes for network in networks for weight in network.parameters())
    return unet, adapter, size_bytes / 2**30


@contextmanager
def made_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """New weights are created on this device in this dtype: as float32 first, they would take twice the memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)

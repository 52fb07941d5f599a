"""FLUX.2 klein in small, in the format of the published folder. Weights are random, but the same in every run."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from transformers import Qwen3Config, Qwen3ForCausalLM

from loadtest.bench.published_formats import byte_tokenizer

TEXT_WIDTH = 16
LATENT_CHANNELS = 4


def write_tiny_klein(folder: Path, distilled: bool = True) -> Path:
    """The folder, with a transformer, a VAE whose statistics are not trivial, a Qwen3 encoder and its tokenizer."""
    torch.manual_seed(2)
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, time_shift_type="exponential"
        ),
        vae=_vae(),
        text_encoder=_text_encoder(),
        tokenizer=byte_tokenizer(),
        transformer=_transformer(),
        is_distilled=distilled,
    )
    pipeline.save_pretrained(folder)
    return folder


def _transformer() -> Flux2Transformer2DModel:
    transformer = Flux2Transformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * TEXT_WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    with torch.no_grad():
        for weight in transformer.parameters():
            weight.mul_(3)  # other people's pictures show, which they hardly do with a new model's weights
    return transformer


def _vae() -> AutoencoderKLFlux2:
    """Eight pixels a latent, as the real one."""
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        sample_size=64,
    )
    channels = torch.arange(4 * LATENT_CHANNELS)
    vae.bn.running_mean.copy_(channels / 20 - 0.3)
    vae.bn.running_var.copy_(0.5 + channels / 10)
    return vae


def _text_encoder() -> Qwen3ForCausalLM:
    """As deep as the layers that klein reads."""
    config = Qwen3Config(
        vocab_size=300,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=28,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=0.3,  # one letter more changes the picture, a rounding error does not
    )
    return Qwen3ForCausalLM(config)

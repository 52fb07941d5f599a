"""Tiny decoders of latents, for images that shall be there sooner: the TAESD family, Ollin Boer Bohan 2023."""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from safetensors import SafetensorError
from safetensors.torch import load_file


def read_tiny_decoder(path: Path, latent_channels: int, dtype: torch.dtype, device: torch.device) -> AutoencoderTiny:
    """The decoder of an AutoencoderTiny of diffusers' own settings, as taesdxl has them, from its weights alone.

    Raises: OSError where the file is missing or broken; ValueError where it holds other weights.
    """
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise OSError(f"{path} is not a file of weights: {error}") from error
    vae = AutoencoderTiny(latent_channels=latent_channels)
    try:
        vae.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} is no tiny VAE for latents of {latent_channels} channels") from error
    del vae.encoder
    return vae.to(device, dtype, memory_format=torch.channels_last).eval().requires_grad_(False)

"""Layers that were quickened do what diffusers' and torch's own do."""

import copy
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deployments.diffusion.model.optimized_layers import DoublingConv2d, replace_layers
from tests.support import tolerance
from tests.support.diffusion_folders import Family, tiny_unet

CHANNELS_LAST = torch.channels_last


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 3), channels=st.integers(1, 5), out=st.integers(1, 5), height=st.integers(1, 7),
    width=st.integers(1, 7), bias=st.booleans(),
)  # fmt: skip
def test_a_doubling_convolution_is_a_convolution_of_the_doubled_picture(
    rows: int, channels: int, out: int, height: int, width: int, bias: bool
) -> None:
    torch.manual_seed(rows + channels + out + height + width)
    conv = nn.Conv2d(channels, out, 3, padding=1, bias=bias)
    picture = torch.randn(rows, channels, height, width)
    with torch.inference_mode():
        ours = DoublingConv2d(conv)(picture.contiguous(memory_format=CHANNELS_LAST))
        theirs = conv(nn.functional.interpolate(picture, scale_factor=2.0, mode="nearest"))
    assert ours.shape == theirs.shape
    assert ours.is_contiguous(memory_format=CHANNELS_LAST)
    # Weights that meet the same pixel are added up first: another order of nine products a channel.
    largest = float((1 + picture.abs().max()) * conv.weight.abs().max())  # of a product or the bias
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance.summed(9 * channels) * largest)


def predicted(unet: Any, family: Family, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * width)
    added = {"text_embeds": torch.ones(2, 32), "time_ids": torch.ones(2, 6)} if family == "sdxl" else {}
    context = torch.randn(2, 7, unet.config.cross_attention_dim, generator=generator)
    latents = torch.randn(2, 4, height, width, generator=generator)
    with torch.inference_mode():
        out: torch.Tensor = unet(latents, torch.tensor([7, 900]), context, added_cond_kwargs=added).sample
    return out


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("size", [(8, 8), (8, 14), (7, 9)], ids=str)
def test_a_quickened_unet_predicts_the_same_at_every_size(family: Family, size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    unet = tiny_unet(family).eval().to(memory_format=CHANNELS_LAST)
    theirs = predicted(unet, family, *size)
    replace_layers(unet)
    assert sum(isinstance(module, DoublingConv2d) for module in unet.modules()) == 1
    assert tolerance.relative(predicted(unet, family, *size), theirs) < tolerance.through(unet)


def test_a_quickened_tiny_vae_decodes_the_same_with_fewer_layers_between() -> None:
    torch.manual_seed(3)
    blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    vae = AutoencoderTiny(**blocks, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).eval()
    latents = torch.randn(1, 4, 6, 5)
    with torch.inference_mode():
        theirs = vae.decode(latents).sample
        replace_layers(vae)
        ours = vae.decode(latents).sample
    assert sum(isinstance(module, DoublingConv2d) for module in vae.decoder.modules()) == 1
    assert not any(isinstance(module, nn.Upsample) for module in vae.decoder.modules())
    assert tolerance.relative(ours, theirs) < tolerance.through(vae.decoder)


@pytest.mark.parametrize("side", [8, 31, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_quickened_norm_is_torchs_own_and_keeps_the_layout(side: int, dtype: torch.dtype) -> None:
    torch.manual_seed(side)
    theirs = nn.GroupNorm(4, 12).to(dtype)
    nn.init.normal_(theirs.weight)
    ours = nn.Sequential(copy.deepcopy(theirs))
    replace_layers(ours)
    picture = (3 * torch.randn(2, 12, side, side) + 1).to(dtype).contiguous(memory_format=CHANNELS_LAST)
    with torch.inference_mode():
        normalised = ours(picture)
        torch.testing.assert_close(normalised, theirs(picture))
    assert normalised.is_contiguous(memory_format=CHANNELS_LAST)


def test_what_is_no_picture_is_normalised_too() -> None:
    norm, tokens = nn.Sequential(nn.GroupNorm(2, 4)).to(torch.bfloat16), torch.randn(2, 4, 5, dtype=torch.bfloat16)
    before = norm(tokens)
    replace_layers(norm)
    assert torch.equal(norm(tokens), before)


@pytest.mark.parametrize("changes", [{"stride": 2}, {"padding": 0}, {"groups": 2}, {"kernel_size": 5, "padding": 2}])
def test_other_convolutions_stay_as_they_are(changes: dict[str, int]) -> None:
    conv = nn.Conv2d(**({"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1} | changes))
    layers = nn.Sequential(nn.Upsample(scale_factor=2), conv)
    replace_layers(layers)
    assert isinstance(layers[0], nn.Upsample)
    assert layers[1] is conv

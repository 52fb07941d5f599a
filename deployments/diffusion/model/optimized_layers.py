"""Faster equivalents of diffusers' layers: no copies between memory layouts and, on CPUs, fewer multiplications."""

from collections.abc import Sequence
from itertools import pairwise
from types import MethodType
from typing import Any, TypeGuard

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from deployments.diffusion.model.row_lora import RowLoraLayer

FEW_PIXELS = 1024  # with fewer, torch uses another algorithm for group norm in bfloat16 channels last


def replace_layers(network: nn.Module) -> None:
    """Patch the layers of a UNet or VAE whose weights have their final device, dtype and memory layout."""
    for module in list(network.modules()):
        if isinstance(module, Transformer2DModel):
            module._get_output_for_continuous_inputs = MethodType(_output_in_channels_last, module)
    if next(network.parameters()).device.type != "cpu":
        return  # not measured on other devices
    for module in list(network.modules()):
        if isinstance(module, nn.GroupNorm):
            module.forward = MethodType(_normalised, module)  # type: ignore[method-assign]
        elif isinstance(module, Upsample2D):
            _double(module)
        elif isinstance(module, nn.Sequential):
            _double_in(module)


def _output_in_channels_last(
    block: Any, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
) -> Tensor:
    """Replaces the method of `Transformer2DModel`: hidden states (rows, pixels, channels) to channels last.

    The original copies them into another layout, from which the next convolution copies them back.
    """
    shape = (batch_size, height, width, inner_dim)
    if block.use_linear_projection:
        picture: Tensor = block.proj_out(hidden_states).view(shape).permute(0, 3, 1, 2)
    else:
        picture = block.proj_out(hidden_states.view(shape).permute(0, 3, 1, 2))
    return picture + residual


def _normalised(norm: nn.GroupNorm, picture: Tensor) -> Tensor:
    """Group norm that converts small pictures (rows, c, h, w) to the layout in which torch is fast, and back."""
    small = picture.ndim == 4 and picture.shape[2] * picture.shape[3] < FEW_PIXELS
    if not (small and picture.dtype == torch.bfloat16):
        return nn.functional.group_norm(picture, norm.num_groups, norm.weight, norm.bias, norm.eps)
    normalised = nn.functional.group_norm(picture.contiguous(), norm.num_groups, norm.weight, norm.bias, norm.eps)
    return normalised.contiguous(memory_format=torch.channels_last)


class DoublingConv2d(nn.Module):
    """Nearest-neighbour upsampling by 2 and a 3x3 convolution, fused into four 2x2 convolutions of the small picture.

    Of the nine pixels under the 3x3 kernel only four differ, so the weights of equal pixels are added up: 4 instead of
    9 multiplications, and no intermediate picture of four times the size.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        weight = conv.weight.detach().float()  # (out, in, 3, 3)
        kernels = [_merged(_merged(weight, 2, down), 3, right) for down in (0, 1) for right in (0, 1)]
        merged = torch.cat(kernels).to(conv.weight.dtype)  # (4 * out, in, 2, 2)
        self.weight = nn.Parameter(merged.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().repeat(4), requires_grad=False)

    def forward(self, picture: Tensor) -> Tensor:
        """(rows, in, h, w) to (rows, out, 2 h, 2 w)."""
        rows, _, height, width = picture.shape
        corners = nn.functional.conv2d(picture, self.weight, self.bias, padding=1).permute(0, 2, 3, 1)
        corners = corners.reshape(rows, height + 1, width + 1, 2, 2, -1)  # the fourth is down, the fifth right
        doubled = corners.new_empty(rows, height, 2, width, 2, corners.shape[-1])
        for down in (0, 1):
            for right in (0, 1):
                doubled[:, :, down, :, right] = corners[:, down : down + height, right : right + width, down, right]
        return doubled.view(rows, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


def _merged(weight: Tensor, dim: int, further: int) -> Tensor:
    """Two weights of three along `dim`: the two that see the same pixel, the first or the last ones, are summed."""
    first, middle, last = weight.unbind(dim)
    return torch.stack([first + middle, last] if further else [first, middle + last], dim)


def _can_be_doubled(layer: Any) -> TypeGuard[nn.Conv2d]:
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1:
        return False
    return (layer.kernel_size, layer.stride, layer.padding, layer.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))


def _double(module: Any) -> None:
    conv = getattr(module, "conv", None)
    base = conv.base if isinstance(conv, RowLoraLayer) else conv
    if _can_be_doubled(base) and module.interpolate and module.norm is None:
        module.doubling = DoublingConv2d(base)
        module.forward = MethodType(_doubled, module)


def _doubled(module: Any, hidden_states: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
    """Replaces the forward of `Upsample2D`, which still handles output sizes that are not exactly doubled."""
    height, width = hidden_states.shape[2:]
    if output_size is None or tuple(output_size) == (2 * height, 2 * width):
        doubled: Tensor = module.doubling(hidden_states)
        if isinstance(module.conv, RowLoraLayer) and module.conv.is_worn(len(hidden_states)):
            module.conv.add(nn.functional.interpolate(hidden_states, scale_factor=2.0), doubled)
        return doubled
    upsampled: Tensor = Upsample2D.forward(module, hidden_states, output_size)
    return upsampled


def _double_in(layers: nn.Sequential) -> None:
    """Fuses neighbouring upsampling and convolution layers, as in a tiny VAE."""
    for place, (layer, following) in enumerate(pairwise(list(layers))):
        upsamples = isinstance(layer, nn.Upsample) and (layer.scale_factor, layer.mode) == (2, "nearest")
        if upsamples and _can_be_doubled(following):
            layers[place], layers[place + 1] = nn.Identity(), DoublingConv2d(following)

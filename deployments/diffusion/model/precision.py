"""The number type that a model computes in."""

import torch

from deployments.config import DiffusionModelConfig


def precision_of(config: DiffusionModelConfig) -> str:
    """The name of the type; `dtype: auto` is bfloat16 where the device is faster in it, else float32."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if computes_bfloat16(config.device) else "float32"


def precision_in_receipts(config: DiffusionModelConfig) -> str:
    """`precision_of`, and how weights are kept where that is another type."""
    return precision_of(config) + (", float8_e4m3fn weights" if config.fp8_weights else "")


def dtype_of(config: DiffusionModelConfig) -> torch.dtype:
    """`precision_of` as a torch type."""
    dtype: torch.dtype = getattr(torch, precision_of(config))
    return dtype


def computes_bfloat16(device: str) -> bool:
    """Whether a device, as torch names it, is faster in bfloat16 than in float32.

    Of CPUs those with AMX, and AMD's with AVX-512's bfloat16. Intel's without AMX have that too, but no more of its
    products in a cycle than of float32's, and the conversions come on top; the rest emulate it.
    """
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    if able.get("amx_bf16", False):
        return True
    return bool(able.get("avx512_bf16", False)) and "Intel" not in str(able.get("cpu_name", ""))

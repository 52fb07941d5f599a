"""The number type that a model computes in."""

import torch

from deployments.config import DiffusionModelConfig

COMPUTES_BFLOAT16 = ("avx512_bf16", "amx_bf16")  # CPUs without them emulate it by conversions


def precision_of(config: DiffusionModelConfig) -> str:
    """The name of the type; `dtype: auto` is bfloat16 where the device supports it, else float32."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if _computes_bfloat16(config.device) else "float32"


def precision_in_receipts(config: DiffusionModelConfig) -> str:
    """`precision_of`, and how weights are kept where that is another type."""
    return precision_of(config) + (", float8_e4m3fn weights" if config.fp8_weights else "")


def dtype_of(config: DiffusionModelConfig) -> torch.dtype:
    """`precision_of` as a torch type."""
    dtype: torch.dtype = getattr(torch, precision_of(config))
    return dtype


def _computes_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in COMPUTES_BFLOAT16)

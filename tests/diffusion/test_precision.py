"""Which number type `dtype: auto` stands for. What the processor can do is made up, but for one test."""

from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.config import DiffusionModelConfig
from deployments.diffusion.model.precision import dtype_of, precision_of


def config(**values: Any) -> DiffusionModelConfig:
    return DiffusionModelConfig(path=Path("model"), ip_adapter=Path("adapter"), **values)


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "AMD EPYC"}, "bfloat16"),
        ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "Intel Xeon"}, "float32"),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": False, "avx2": True}, "float32"),
        ({"neon": True, "architecture": "aarch64"}, "float32"),
    ],
)
def test_a_processor_draws_in_bfloat16_only_if_it_is_faster_in_it(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, Any], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert precision_of(config()) == expected


def test_this_processor_says_what_it_can_do() -> None:
    assert "architecture" in torch.cpu.get_capabilities()
    assert precision_of(config()) in ("bfloat16", "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_type_that_is_named_is_taken(dtype: str) -> None:
    assert precision_of(config(dtype=dtype)) == dtype
    assert dtype_of(config(dtype=dtype)) is getattr(torch, dtype)

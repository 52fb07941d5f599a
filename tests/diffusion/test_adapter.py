import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.diffusion.model.ip_adapter import IPAdapter
from tests.support.diffusion_folders import FileFormat, tiny_unet, write_faceid_adapter


@pytest.mark.parametrize("file_format", ["bin", "safetensors"])
@pytest.mark.parametrize("lora", [True, False])
def test_both_formats_hold_the_same(tmp_path: Path, file_format: FileFormat, lora: bool) -> None:
    adapter = IPAdapter.read(write_faceid_adapter(tmp_path, "sdxl", file_format, lora))
    adapter.check_fits(tiny_unet("sdxl"))
    assert adapter.projection["proj.0.weight"].shape == (1024, 512)
    assert adapter.attention["1.to_k_ip.weight"].shape == (32, 64)
    assert ("0.to_q_lora.down.weight" in adapter.attention) == lora


def test_lora_weights_can_be_left_out(tmp_path: Path) -> None:
    adapter = IPAdapter.read(write_faceid_adapter(tmp_path, "sd", "bin", lora=True))
    assert adapter.state_dict(with_lora=True)["ip_adapter"].keys() == adapter.attention.keys()
    without = adapter.state_dict(with_lora=False)["ip_adapter"]
    assert without
    assert all("_ip." in name for name in without)


def test_an_adapter_for_a_unet_with_more_layers_is_refused(tmp_path: Path) -> None:
    path = write_faceid_adapter(tmp_path, "sd", "safetensors", lora=False)
    weights = load_file(path)
    save_file(weights | {"ip_adapter.99.to_k_ip.weight": weights["ip_adapter.1.to_k_ip.weight"].clone()}, path)
    with pytest.raises(ValueError, match="for 5 cross-attention layers of width 32; this one has 4 of width 32"):
        IPAdapter.read(path).check_fits(tiny_unet("sd"))


def test_an_adapter_that_looks_at_the_photo_is_refused(tmp_path: Path) -> None:
    path = write_faceid_adapter(tmp_path, "sd", "safetensors", lora=False)
    save_file(load_file(path) | {"image_proj.perceiver_resampler.proj_in.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="nothing but a face vector"):
        IPAdapter.read(path)


def test_an_adapter_for_other_face_vectors_is_refused(tmp_path: Path) -> None:
    path = write_faceid_adapter(tmp_path, "sd", "safetensors", lora=False)
    save_file(load_file(path) | {"image_proj.proj.0.weight": torch.zeros(256, 128)}, path)
    with pytest.raises(ValueError, match="512"):
        IPAdapter.read(path)


class RunsCode:
    """What an attacker would put into a pickle."""

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, ("made-by-a-pickle",)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"image_proj": RunsCode(), "ip_adapter": {}}, tmp_path / "bad.bin")
    with pytest.raises(OSError, match=r"bad\.bin is not a file of weights"):
        IPAdapter.read(tmp_path / "bad.bin")
    assert not (tmp_path / "made-by-a-pickle").exists()


@pytest.mark.parametrize("name", ["adapter.bin", "adapter.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 cut short"])
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OSError, match=name):
        IPAdapter.read(tmp_path / name)


@pytest.mark.parametrize("name", ["adapter.bin", "adapter.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match=name):
        IPAdapter.read(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"image_proj": [1]}, {"image_proj": {}}, torch.zeros(3)])
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.bin")
    with pytest.raises(ValueError, match=r"other\.bin"):
        IPAdapter.read(tmp_path / "other.bin")

"""Compiled kernels that outlive a process: on the CPU, whose compiler is the system's."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from deployments.diffusion.compile_cache import VARIABLE, cache_key, use_compile_cache
from deployments.diffusion.model.denoiser import FaceDiffusionModel
from serve_app.cli.root import cli
from serve_app.launcher import CONFIG

PROGRAM = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from deployments.diffusion.compile_cache import use_compile_cache
use_compile_cache(Path(sys.argv[1]), "cpu")
import torch
from torch._dynamo.utils import counters
torch.compile(lambda x: (x * 2).sin() + 1)(torch.ones(64))
print("taken from the cache:", counters["inductor"]["fxgraph_cache_hit"] > 0)
"""


@pytest.fixture(autouse=True)
def no_cache_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # so that it is put back


def test_the_folder_is_of_this_torch_and_this_device(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = cache_key("cpu")
    assert torch.__version__.replace("+", "_") in on_cpu
    assert set(on_cpu) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.-ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 9))
    assert cache_key("cuda").endswith("-sm_89")
    assert cache_key("cuda") != on_cpu
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx512_f": False})
    assert cache_key("cpu") != on_cpu  # kernels for AVX-512 would crash there


def test_kernels_of_another_version_are_a_miss_that_the_log_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "torch-2.12.0-cuda-13.0-triton-3.6.0-sm_89"
    other.mkdir()
    with caplog.at_level(logging.INFO, "ray.serve"):
        assert not use_compile_cache(tmp_path, "cpu")
        own = Path(os.environ[VARIABLE])
        assert own == tmp_path / cache_key("cpu")
        (own / "kernel").write_text("")
        assert use_compile_cache(tmp_path, "cpu")
    miss, hit = caplog.records
    assert (miss.levelname, other.name in miss.message) == ("WARNING", True)
    assert (hit.levelname, str(own) in hit.message) == ("INFO", True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler for torch's CPU backend")
def test_another_process_takes_the_kernels_of_the_first(tmp_path: Path) -> None:
    def run() -> str:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert "taken from the cache: False" in run()
    assert "taken from the cache: True" in run()


def test_the_command_compiles_every_shape_of_the_apps_into_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[tuple[int, int], int]] = []

    def note(_model: FaceDiffusionModel, size: tuple[int, int], batch_size: int) -> None:
        assert Path(os.environ[VARIABLE]).parent == tmp_path / "compiled"
        compiled.append((size, batch_size))
        if batch_size == 4:
            _model._unet._graphs._on_failure()

    monkeypatch.setattr(FaceDiffusionModel, "compile", note)
    config = yaml.safe_load(CONFIG.read_text())
    generator = config["applications"][0]["args"]["generator"]
    generator["max_rows"] = 2
    path = tmp_path / "config.yaml"

    def run() -> tuple[int, str]:
        path.write_text(yaml.safe_dump(config))
        result = CliRunner().invoke(cli, ["models", "compile", "--config", str(path)])
        return result.exit_code, result.output + str(result.exception)

    assert "no model has `compile: true`" in run()[1]
    generator["compile_cache"] = str(tmp_path / "compiled")
    generator["models"]["embedded"]["compile"] = True
    code, shown = run()
    assert compiled == [((256, 256), 2), ((256, 256), 4)]
    assert "embedded: 256 x 256 pixels, batches of 2: compiled" in shown
    assert "batches of 4: failed" in shown
    assert code == 1

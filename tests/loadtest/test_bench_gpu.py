"""The GPU benchmark: the shapes of its models, and all of it run on the CPU with tiny ones."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from loadtest.bench.gpu.__main__ import main
from loadtest.bench.gpu.figures import Curve, StepTime
from loadtest.bench.gpu.measure import teraflop
from loadtest.bench.gpu.models import FULL, random_adapter, random_pipeline

ROOT = Path(__file__).parents[2]
LIMIT_S = 300
ON_CPU = ["served", "blocks", "uncompiled", "contiguous", "cudnn-benchmark"]  # the other variants need inductor
SDXL_TEXT, SD15_TEXT = [123_060_480, 694_659_840], [123_060_480]


def parameters(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize(
    ("name", "unet", "text_encoders", "layers", "width"),
    [("sdxl", 2_567_463_684, SDXL_TEXT, 70, 2048), ("sd15", 859_520_964, SD15_TEXT, 16, 768)],
)
def test_the_models_have_the_published_sizes(
    name: str, unet: int, text_encoders: list[int], layers: int, width: int
) -> None:
    pipeline = random_pipeline(FULL[name], torch.device("meta"), torch.bfloat16)
    encoders = [part for key, part in sorted(pipeline.components.items()) if key.startswith("text_encoder")]
    adapter = random_adapter(pipeline.unet)
    adapter.check_fits(pipeline.unet)
    keys = [weight for key, weight in adapter.attention.items() if key.endswith(".to_k_ip.weight")]
    assert pipeline.unet.dtype == pipeline.vae.dtype == torch.bfloat16
    assert (parameters(pipeline.unet), parameters(pipeline.vae)) == (unet, 83_653_863)
    assert list(map(parameters, encoders)) == text_encoders
    assert [weight.shape[1] for weight in keys] == [width] * layers


def test_a_step_of_sdxl_counts_its_published_arithmetic() -> None:
    unet = random_pipeline(FULL["sdxl"], torch.device("meta"), torch.bfloat16).unet
    with torch.device("meta"):
        inputs = torch.empty(1, 4, 128, 128, dtype=torch.bfloat16)
        words = torch.empty(1, 77, 2048, dtype=torch.bfloat16)
        added = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
        assert teraflop(lambda: unet(inputs, 1, words, added_cond_kwargs=added)) == pytest.approx(6.76, abs=0.01)


def test_the_curve_is_fitted_to_what_fits_into_memory() -> None:
    times = [StepTime(512, rows, rows, 14.0 + 6 * rows, 1.0, 0.5) for rows in (1, 2, 4)]
    alone = StepTime(1024, 1, 1, 30.0, 4.0, 0.5)
    (curve,) = Curve.through([*times, StepTime(512, 8, 8, None, 8.0, None), alone])
    assert curve.size_px == 512
    assert (curve.base_ms, curve.per_row_ms) == pytest.approx((14, 6))


@pytest.fixture(scope="module")
def tiny_figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("gpu") / "gpu.json"
    command = [sys.executable, "-m", "loadtest.bench.gpu", "--tiny", "--json", str(path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert run.returncode == 0, run.stderr
    figures: dict[str, Any] = json.loads(path.read_text())["figures"]
    return figures


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_every_figure_is_there(tiny_figures: dict[str, Any], name: str) -> None:
    figures = tiny_figures[name]
    assert [(step["size_px"], step["rows"]) for step in figures["steps"]] == [(64, 1), (64, 2)]
    assert [(images["rows"], images["steps"]) for images in figures["images"]] == [(1, 2), (1, 3), (2, 2), (2, 3)]
    assert [variant["variant"] for variant in figures["variants"]] == ON_CPU
    assert [variant["failure"] for variant in figures["variants"]] == [""] * len(ON_CPU)
    for table in ("model", "start", "steps", "decode", "images", "variants"):
        numbers = {key: value for figure in figures[table] for key, value in figure.items() if key != "peak_gib"}
        assert all(value > 0 for value in numbers.values() if not isinstance(value, str)), numbers
    assert len(figures["curves"]) == 1
    (gaps,) = figures["gaps"]
    assert gaps["steps"] >= 3
    assert 0 <= gaps["gap_p50_ms"] <= gaps["gap_p99_ms"] <= gaps["gap_longest_ms"]
    assert 0 < gaps["gaps"] < 1


@pytest.mark.slow
def test_two_rows_are_twice_the_arithmetic_of_one(tiny_figures: dict[str, Any]) -> None:
    one, two = tiny_figures["sdxl"]["steps"]
    assert two["tflop"] == pytest.approx(2 * one["tflop"])


@pytest.mark.slow
def test_mfu_is_the_share_of_the_matrix_products_speed(tiny_figures: dict[str, Any]) -> None:
    (matrices,) = tiny_figures["matrices"]["product"]
    for step in tiny_figures["sd15"]["steps"]:
        tflop_per_s = step["tflop"] / (step["step_ms"] / 1000)
        assert step["mfu"] == pytest.approx(tflop_per_s / matrices["tflop_per_s"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert capsys.readouterr() == (
        "",
        f"torch {torch.__version__} finds no CUDA device here (--tiny runs on the CPU)\n",
    )


def test_an_unknown_variant_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--tiny", "--variants", "served,slower"])
    assert "no such variant: slower" in capsys.readouterr().err

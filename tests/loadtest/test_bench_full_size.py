"""The full-size benchmark: the shapes of its files, and all of it with tiny models."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from transformers import Qwen3Config, Qwen3ForCausalLM

from deployments.config import DiffusionModelConfig
from deployments.diffusion.model.ip_adapter import IPAdapter
from deployments.diffusion.model.loader import FacePipeline
from deployments.types import AvatarSpec
from loadtest.bench.full_size import __main__ as entry
from loadtest.bench.full_size import images, klein, unet
from loadtest.bench.full_size.figures import (
    PARTS,
    Comparison,
    Drawing,
    Measured,
    MeasuredKlein,
    Start,
    StepTime,
    TextEncoding,
)
from loadtest.bench.full_size.files import VARIANT, ModelFiles
from loadtest.bench.full_size.folders import DTYPE, published_adapter, write_model
from loadtest.bench.gpu.models import FULL, made_on, random_pipeline
from serve_app.catalog.catalog import Catalog
from tests.support import tolerance

ROOT = Path(__file__).parents[2]
LIMIT_S = 600
PLACES = {"sd15": ("sd-1.5", "ip-adapter-faceid_sd15.bin"), "sdxl": ("sdxl-base-1.0", "ip-adapter-faceid_sdxl.bin")}
SIZE_PX = 64


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=list(FULL))
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DiffusionModelConfig:
    """Of a tiny model; the folder has its name."""
    files = ModelFiles(tmp_path_factory.mktemp("models") / request.param)
    write_model(files.folder, request.param, tiny=True, threads=1)
    return DiffusionModelConfig(
        path=files.pipeline, ip_adapter=files.adapter, variant=VARIANT, dtype="float32", threads=1
    )


def size_bytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("name", list(FULL))
def test_every_file_of_weights_has_the_published_size(name: str) -> None:
    pipeline = random_pipeline(FULL[name], torch.device("meta"), DTYPE)
    adapter = published_adapter(pipeline.unet)
    folder, adapter_file = PLACES[name]
    written = {
        f"ip-adapter-faceid/{adapter_file}": size_bytes(*adapter.projection.values(), *adapter.attention.values())
    }
    for part, network in pipeline.components.items():
        if isinstance(network, torch.nn.Module):
            file = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
            written[f"{folder}/{part}/{file}.fp16.safetensors"] = size_bytes(*network.parameters())
    catalog = Catalog.read(["research"])
    published = {file.path: file.size for file in catalog.files(catalog.downloads) if file.path in written}
    # The rest are the names of the weights.
    assert published == {path: pytest.approx(size, rel=1e-3) for path, size in written.items()}


def test_a_folder_that_broke_off_is_written_anew(tmp_path: Path) -> None:
    partial = tmp_path / "sd15.partial"
    partial.mkdir()
    (partial / "half a file").touch()
    write_model(tmp_path / "sd15", "sd15", tiny=True, threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["sd15"]
    assert not (tmp_path / "sd15" / "half a file").exists()
    adapter = IPAdapter.read(ModelFiles(tmp_path / "sd15").adapter)
    assert adapter.has_lora


@pytest.mark.parametrize("config", ["sd15"], indirect=True)
def test_both_images_are_those_of_the_library(config: DiffusionModelConfig) -> None:
    from deployments.diffusion.model.denoiser import FaceDiffusionModel

    model = FaceDiffusionModel.load(config)
    drawn, expected = images.draw(model, SIZE_PX), images.draw_by_library(config, SIZE_PX)
    pairs = list(zip(drawn.latents, expected, strict=True))
    bar = 3 * tolerance.through(model._pipeline.unet)  # steps
    assert max(images.relative(ours, theirs) for ours, theirs in pairs) < bar
    first = drawn.latents[0]
    assert min(images.relative(other, first) for other in (drawn.other_face, drawn.other_prompt)) > 10 * bar
    assert drawn.step.step_s > 0


@pytest.mark.parametrize("config", ["sdxl"], indirect=True)
def test_the_unet_of_sdxl_predicts_what_the_library_predicts(
    config: DiffusionModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse = unet.fuse_lora_weights

    def half_as_strong(pipeline: FacePipeline, config: DiffusionModelConfig) -> None:
        fuse(pipeline, config.model_copy(update={"lora_scale": 0.5}))

    right = unet.compare_unet(config, SIZE_PX)
    monkeypatch.setattr(unet, "fuse_lora_weights", half_as_strong)
    wrong = unet.compare_unet(config, SIZE_PX)
    assert right.difference < entry.LARGEST_DIFFERENCE < wrong.difference
    assert min(right.face_difference, right.prompt_difference) > 10 * entry.LARGEST_DIFFERENCE
    assert right.unet_rows == 4


def test_every_network_of_klein_has_the_published_size() -> None:
    with made_on(torch.device("meta"), klein.FULL.dtype):
        text_encoder = Qwen3ForCausalLM(Qwen3Config(**klein.FULL.text_encoder))
        transformer = Flux2Transformer2DModel(**klein.FULL.transformer)
        vae = AutoencoderKLFlux2(**klein.FULL.vae)
    sizes = [size_bytes(*network.parameters()) for network in (text_encoder, transformer, vae)]
    # Of the files of black-forest-labs/FLUX.2-klein-4B; the rest are the names of the weights.
    assert sizes == [pytest.approx(size, rel=1e-3) for size in (8_044_981_992, 7_751_109_744, 168_120_878)]


def test_klein_draws_what_the_library_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    most = klein.LARGEST_DIFFERENCE["float32"]
    prompt, text = klein.encode(klein.TINY, threads=1)
    assert text.difference < most
    right = klein.draw(klein.TINY, prompt, SIZE_PX, threads=1)
    assert right.difference < most < 0.1 < right.person_difference
    draw = klein._drawn_by_library

    def of_somebody_else(pipeline: object, embedding: torch.Tensor, spec: AvatarSpec, _face: object) -> Any:
        return draw(pipeline, embedding, spec, klein._person(2, SIZE_PX))

    monkeypatch.setattr(klein, "_drawn_by_library", of_somebody_else)
    assert klein.draw(klein.TINY, prompt, SIZE_PX, threads=1).difference > most


@pytest.mark.parametrize(("difference", "code"), [(4e-2, 0), (6e-2, 1)])
def test_a_difference_of_klein_that_is_too_large_is_a_failure(
    difference: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    time = StepTime(12.5, 20.0)
    drawing = Drawing(256, 4, time, time, difference, 0.5, 9.5)
    found = MeasuredKlein("bfloat16", TextEncoding(time, time, 1e-3, 8.5), drawing)
    monkeypatch.setattr(klein, "measure_klein", lambda *_: found)
    path = tmp_path / "klein.json"
    assert entry.main(["--model", "klein", "--tiny", "--json", str(path)]) == code
    printed = capsys.readouterr().out
    assert all(figure in printed for figure in ("12.50", "9.5", "8.5", f"{difference:.1e}"))
    assert json.loads(path.read_text())["drawing"]["difference"] == difference
    monkeypatch.setattr(entry, "KLEIN_NEEDS", entry.Needs(disk_gb=0, memory_gb=1e6))
    with pytest.raises(SystemExit):
        entry.main(["--model", "klein"])
    assert "GB of memory are free, but it takes" in capsys.readouterr().err


def comparison(difference: float) -> Comparison:
    return Comparison("latents", "float32", SIZE_PX, 4, 1.0, 2.0, difference, 0.1, 0.1, 4.0)


@pytest.mark.parametrize(("difference", "code"), [(2e-5, 0), (2e-4, 1)])
def test_a_difference_that_is_too_large_is_a_failure(
    difference: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = Start("float32", dict.fromkeys(PARTS, 1.5), dict.fromkeys(PARTS, 0.5), 2.0, 3.0)
    monkeypatch.setattr(entry, "_measured", lambda name, *_: Measured(name, start, comparison(difference)))
    assert entry.main(["--tiny"]) == code
    printed = capsys.readouterr().out
    assert all(figure in printed for figure in ("sd15", "sdxl", "10.5", "3.5", f"{difference:.1e}"))


def test_too_little_disk_or_memory_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for lacking, message in (("disk_gb", "GB free, but the weights take"), ("memory_gb", "GB of memory are free, but")):
        needs = replace(entry.NEEDS["sd15"], **{"disk_gb": 0.0, "memory_gb": 0.0, lacking: 1e6})
        monkeypatch.setitem(entry.NEEDS, "sd15", needs)
        with pytest.raises(SystemExit):
            entry.main(["--model", "sd15", "--folder", str(tmp_path)])
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_all_of_it_runs_with_tiny_models_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = tmp_path / "full_size.json", tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    command = [sys.executable, "-m", "loadtest.bench.full_size", "--tiny", "--json", str(path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert run.returncode == 0, run.stderr
    found: list[dict[str, Any]] = json.loads(path.read_text())
    assert [(each["model"], each["start"]["dtype"]) for each in found] == [("sd15", "float32"), ("sdxl", "bfloat16")]
    for each in found:
        assert each["start"]["parts_s"].keys() == set(PARTS)
        assert each["start"]["processor_s"].keys() == set(PARTS)
        assert all(seconds > 0 for seconds in each["start"]["parts_s"].values())
        assert 0 < each["start"]["peak_gib"] < 8
        assert 0 < each["comparison"]["difference"] < entry.LARGEST_DIFFERENCE
    assert not [left for left in folder.iterdir() if left.name.startswith("tmp")]

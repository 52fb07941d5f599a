"""Servers with styles: batches of a GPU, the service's config and generator, figures that are made up, a whole run."""

import asyncio
import json
import subprocess
import sys
from base64 import b64decode
from dataclasses import asdict, replace
from pathlib import Path

import httpx
import pytest
import yaml
from rich.console import Console

from deployments.config import model_path
from deployments.types import GeneratedImage
from loadtest.bench.engine.lora_costs import LoraCosts
from loadtest.bench.engine.queues import NOBODY, Curve, SleepingDenoiser, spec_of
from loadtest.bench.engine.styles import LOOKS, MIXES, STYLES
from loadtest.bench.peers.by_style import REPLICAS, SWAPS, Gpu, app_of, gpus_of
from loadtest.bench.peers.load import ROUTE, SERVICE, Measured, photo_url
from loadtest.bench.peers.rounds import Extent
from loadtest.bench.peers.styled_service import COSTS, StyledGenerator, styled_command
from loadtest.bench.peers.styles import GPUS, StyledComparison, costs_of, requests, styles_table
from serve_app.app import generator_of_apps
from serve_app.settings import Settings

ROOT = Path(__file__).parents[2]
LIMIT_S = 600
LORA_COSTS = LoraCosts(slots_same=1.1, slots_mixed=1.2, peft=1.3, swap_s=0.002, swapped_layers=700)
MILLISECONDS = Curve.line("by hand", 0.001, 0.001)


async def drawn_in_order(gpu: Gpu, wanted: list[tuple[int, str | None]]) -> list[int]:
    """The numbers of these images, as they come."""
    done: list[int] = []

    async def draw(number: int) -> None:
        await gpu.draw(*wanted[number])
        done.append(number)

    await asyncio.gather(*map(draw, range(len(wanted))))
    return done


def test_a_gpu_draws_others_of_the_style_and_step_count_of_the_oldest_with_it() -> None:
    wanted = [(2, "clay"), (1, None), (1, "clay"), (2, "clay"), (1, None)]
    assert asyncio.run(drawn_in_order(Gpu(LORA_COSTS, MILLISECONDS), wanted)) == [0, 3, 1, 4, 2]


def test_one_gpu_swaps_for_all_looks_or_each_has_its_own() -> None:
    assert len(set(gpus_of(SWAPS, LORA_COSTS).values())) == GPUS[SWAPS] == 1
    assert len(set(gpus_of(REPLICAS, LORA_COSTS).values())) == GPUS[REPLICAS] == len(LOOKS)


def test_a_sleeping_step_takes_longer_for_what_its_images_wear() -> None:
    denoiser = SleepingDenoiser(MILLISECONDS, LORA_COSTS.slots)
    plain = spec_of(1)
    samples = [denoiser.start(plain, NOBODY), denoiser.start(replace(plain, lora="clay"), NOBODY)]
    assert samples == [None, "clay"]
    assert denoiser.step(samples).seconds >= LORA_COSTS.slots_mixed * MILLISECONDS.step_s(2)


def test_the_service_has_a_lora_for_each_style_and_knows_what_they_cost(tmp_path: Path) -> None:
    command = styled_command(LORA_COSTS, 8001, tmp_path)
    (application,) = yaml.safe_load(Path(command[command.index("--config") + 1]).read_text())["applications"]
    settings = Settings(**application["args"])
    (model,) = generator_of_apps(settings).located(settings.models_dir).models.values()
    assert model.loras.keys() == {f"{SERVICE}/{style}" for style in STYLES}
    assert all(model_path(lora.file).is_file() and lora.is_style for lora in model.loras.values())
    (generator,) = (each for each in application["deployments"] if each["name"] == "AvatarGenerator")
    assert LoraCosts(**json.loads(generator["ray_actor_options"]["runtime_env"]["env_vars"][COSTS])) == LORA_COSTS


def test_the_generator_of_the_service_draws_what_wears_a_lora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = styled_command(LORA_COSTS, 8001, tmp_path)
    (application,) = yaml.safe_load(Path(command[command.index("--config") + 1]).read_text())["applications"]
    settings = Settings(**application["args"])
    monkeypatch.setenv(COSTS, json.dumps(asdict(LORA_COSTS)))
    spec = spec_of(1, model="embedded")
    worn = f"{SERVICE}/clay"

    async def scenario() -> list[GeneratedImage]:
        generator = StyledGenerator.__new__(StyledGenerator)
        await generator.__init__(generator_of_apps(settings).located(settings.models_dir))  # type: ignore[misc]
        images = [generator.generate(each, NOBODY) for each in (spec, replace(spec, lora=worn))]
        try:
            return await asyncio.gather(*images)
        finally:
            generator._engine.close()

    for image, names in zip(asyncio.run(scenario()), ([], [f"lora/{worn}"]), strict=True):
        assert image.pixels.shape == (512, 512, 3)
        assert image.drawn_with is not None
        assert [name for name in image.drawn_with.weights if name.startswith("lora/")] == names


def test_the_server_that_batches_by_style_answers_with_a_picture() -> None:
    app = app_of(dict.fromkeys(LOOKS, Gpu(LORA_COSTS, MILLISECONDS)))
    bodies = [{"file_url": photo_url(), "seed": 1, "num_inference_steps": 1, "style": style} for style in LOOKS]

    async def scenario() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://peer") as client:
            return await asyncio.gather(*(client.post(ROUTE, json=body) for body in bodies))

    for response in asyncio.run(scenario()):
        assert b64decode(response.json()["image"]).startswith(b"\x89PNG")


def test_the_table_has_what_a_gpu_draws_and_marks_missed_bars() -> None:
    def run(images: int, whole_s: float) -> Measured:
        return Measured((8,) * images, (whole_s,) * images, whole_s, 1.0)

    runs = {SWAPS: run(10, 5.0), REPLICAS: run(60, 5.0), SERVICE: run(10, 4.0)}
    comparison = StyledComparison("even", LORA_COSTS, 1.6, runs, runs)
    rate, p95 = comparison.bars
    assert (rate.value, p95.value) == (1.25, 1.25)
    console = Console(width=300, record=True)
    console.print(styles_table([comparison], Extent(images=10, rounds=1, load=0.8, seed=0)))
    shown = [[cell.strip() for cell in line.split("│")] for line in console.export_text().splitlines() if "│" in line]
    assert [cells[3:6] for cells in shown] == [["1", "2.00", "2.00"], ["6", "12.00", "2.00"], ["1", "2.50", "2.50"]]
    assert "p95 of set_adapters over ours 1.25 (at least 2), missed" in shown[2][-2]


def test_requests_have_the_styles_of_the_mix_whatever_the_rate() -> None:
    extent = Extent(images=120, rounds=2, load=0.8, seed=1)
    for mix in MIXES:
        slow, fast = requests(mix, extent, 1.0, 0), requests(mix, extent, 4.0, 0)
        assert [(each.steps, each.style) for each in slow] == [(each.steps, each.style) for each in fast]
        assert {each.style for each in slow} == set(LOOKS)


@pytest.mark.ray
@pytest.mark.long
def test_all_servers_draw_all_styles(tmp_path: Path) -> None:
    costs, figures = tmp_path / "costs.json", tmp_path / "peers.json"
    costs.write_text(json.dumps({"costs": asdict(LORA_COSTS)}))
    assert costs_of(costs) == LORA_COSTS
    line = [sys.executable, "-m", "loadtest.bench.peers", "--styles", costs, "--images", "6", "--rounds", "1"]
    done = subprocess.run(
        [*line, "--json", figures], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for comparison in json.loads(figures.read_text())["comparisons"]:
        for runs in (comparison["saturated"], comparison["mixed"]):
            assert runs.keys() == GPUS.keys()
            assert all(len(run["latencies_s"]) == 6 for run in runs.values())

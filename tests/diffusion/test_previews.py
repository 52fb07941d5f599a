"""Small pictures of half-done images: what they show, what they cost, and who gets them."""

import asyncio
import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deployments.diffusion.deployment import AvatarGenerator, LoadedModel
from deployments.diffusion.engine import previews as engine_previews
from deployments.diffusion.engine.denoiser import OutOfMemoryError
from deployments.diffusion.engine.engine import DiffusionEngine
from deployments.diffusion.engine.latency_model import LatencyModel
from deployments.diffusion.engine.previews import MAX_SHARE, Previewer
from deployments.diffusion.engine.progress import keep_reporting
from deployments.diffusion.model.denoiser import FaceDiffusionModel
from deployments.diffusion.model.latent_colours import FLUX_2, MAX_SIDE, OF_FAMILIES, SDXL, colours_of
from deployments.types import ImagePreview, ImageProgress, Pixels
from loadtest.bench.engine.queues import GENERATOR
from loadtest.bench.random_face import random_face
from tests.support.fakes import Count, CountedStep, CountingDenoiser, avatar_spec, face, row
from tests.support.polling import eventually


class ShowingDenoiser(CountingDenoiser):
    """A preview shows the number of steps in every byte."""

    def __init__(self) -> None:
        super().__init__()
        self.previewed: list[int] = []
        self.errors: list[Exception] = []
        self.held_after: int | None = None  # so many steps, the gate closes

    def step(self, samples: Sequence[Count]) -> CountedStep:
        if len(self.batches) == self.held_after:
            self.gate.clear()
        return super().step(samples)

    def preview(self, sample: Count) -> Pixels | None:
        self.previewed.append(sample.seed)
        if self.errors:
            raise self.errors.pop()
        return np.full((8, 8, 3), sample.done, np.uint8)


class Wall:
    """Where previews are shown."""

    def __init__(self) -> None:
        self.previews: list[ImagePreview] = []
        self.reports = 0

    async def report(self, _progress: Sequence[ImageProgress], previews: Sequence[ImagePreview] = ()) -> None:
        self.reports += 1
        self.previews += previews


def shown(preview: ImagePreview) -> np.ndarray[Any, Any]:
    kind, _, data = preview.picture.partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


# What they show


def test_a_preview_of_the_last_step_is_nearly_the_picture() -> None:
    threads = torch.get_num_threads()
    model = FaceDiffusionModel.load(GENERATOR.models["embedded"])
    spec = avatar_spec(prompt="portrait of a woman, blue background", width=256, height=256, num_inference_steps=4)
    sample = model.start(spec, random_face(3))
    errors = []
    pictures = []
    for _ in range(4):
        model.step([sample]).wait_s()
        pictures.append(model.preview(sample))
    truth = np.asarray(Image.fromarray(model.decode(sample)).resize((64, 64), Image.Resampling.BOX), np.float32)
    for picture in pictures:
        assert picture is not None
        assert picture.shape == (64, 64, 3)
        errors.append(float(np.abs(picture - truth).mean()))
    torch.set_num_threads(threads)
    contrast = float(np.abs(truth - truth.mean((0, 1))).mean())  # what a picture of one colour would miss
    assert errors[-1] < contrast / 4
    assert errors[0] > errors[-1]  # it becomes clear


@pytest.mark.parametrize(("family", "channels"), OF_FAMILIES)
def test_the_factors_of_a_family_are_of_all_its_channels(family: str, channels: int) -> None:
    colours = colours_of(family, channels)
    assert colours is not None
    assert len(colours.factors) == channels
    assert len({len(factors) for factors in colours.factors}) == 1
    latents = torch.zeros(1, channels, 4, 6)
    picture = colours.picture(latents)
    side = picture.shape[0] // 4
    assert picture.shape == (4 * side, 6 * side, 3)
    assert np.abs(picture - (np.array(colours.bias) + 1) * 127.5).max() <= 0.51


def test_a_cell_has_the_colour_of_its_channels_and_a_large_picture_is_averaged_down() -> None:
    latents = torch.zeros(1, 4, 200, 400)
    latents[0, 0, :, 200:] = 1.0
    picture = SDXL.picture(latents)
    assert picture.shape == (MAX_SIDE // 2, MAX_SIDE, 3)
    expected = (np.array(SDXL.factors[0]) + np.array(SDXL.bias) + 1) * 127.5
    assert np.abs(picture[3, -3] - expected).max() <= 0.51


def test_latents_of_an_unknown_family_have_no_preview() -> None:
    assert colours_of("StableDiffusionPipeline", 16) is None
    assert FLUX_2 is colours_of("Flux2KleinPipeline", 32)


# What they cost


def test_an_image_has_at_most_two_a_second_and_one_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(engine_previews, "time", SimpleNamespace(monotonic=lambda: now, thread_time=lambda: 0.0))
    previewer, denoiser, drawing = Previewer(), ShowingDenoiser(), row(steps_done=1)
    drawing = replace_denoiser(drawing, denoiser)
    sample = Count(7, 9, 1)
    assert [preview.step for preview in previewer.due([(drawing, sample)])] == [1]
    drawing.steps_done = 2
    now += 0.4
    assert previewer.due([(drawing, sample)]) == []
    now += 0.1
    assert [preview.step for preview in previewer.due([(drawing, sample)])] == [2]
    now += 5
    assert previewer.due([(drawing, sample)]) == []  # no step since


def test_previews_take_no_more_than_their_share_of_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    now = worked = 0.0

    def thread_time() -> float:
        nonlocal worked
        worked += 0.05  # between two calls
        return worked

    monkeypatch.setattr(engine_previews, "time", SimpleNamespace(monotonic=lambda: 100 + now, thread_time=thread_time))
    previewer, drawing = Previewer(), replace_denoiser(row(), ShowingDenoiser())
    made = 0
    for tick in range(100):
        now = tick * 0.5
        drawing.steps_done = tick + 1
        made += len(previewer.due([(drawing, Count(7, 200, 1))]))
    assert made * 0.05 <= MAX_SHARE * 50
    assert made >= 15


@pytest.mark.parametrize("denoiser", [ShowingDenoiser(), CountingDenoiser()])
def test_a_model_that_cannot_show_just_now_or_never_does_no_harm(denoiser: CountingDenoiser) -> None:
    if isinstance(denoiser, ShowingDenoiser):
        denoiser.errors = [OutOfMemoryError("there is no room for a preview")]
    drawing = replace_denoiser(row(steps_done=1), denoiser)
    assert Previewer().due([(drawing, Count(7, 9, 1))]) == []


def replace_denoiser(drawing: Any, denoiser: CountingDenoiser) -> Any:
    return replace(drawing, denoiser=denoiser)


# Who gets them


def test_only_images_whose_request_wants_previews_have_them() -> None:
    async def run() -> None:
        denoiser, wall = ShowingDenoiser(), Wall()
        denoiser.held_after = 5
        engine = DiffusionEngine(LatencyModel(max_batch_size=4), ageing=0.25)
        reporting = asyncio.create_task(keep_reporting(engine, wall, 0.01))
        wanted = avatar_spec(task_id="t", image_index=2, num_inference_steps=9, seed=1, previews=True)
        for spec in (wanted, replace(wanted, seed=2, previews=False)):
            engine.submit(spec, face(), denoiser)
        await eventually(lambda: asyncio.sleep(0, wall.previews))
        denoiser.held_after = None
        denoiser.gate.set()
        await asyncio.to_thread(engine.close)
        await reporting
        first = wall.previews[0]
        assert (first.task_id, first.image_index, first.steps) == ("t", 2, 9)
        assert first.step >= 1
        assert set(denoiser.previewed) == {1}
        assert shown(first).shape == (8, 8, 3)

    asyncio.run(run())


def test_progress_is_reported_though_previews_fail() -> None:
    async def run() -> None:
        denoiser, wall = ShowingDenoiser(), Wall()
        denoiser.held_after, denoiser.errors = 1, [ValueError("no colours")]
        engine = DiffusionEngine(LatencyModel(max_batch_size=4), ageing=0.25)
        reporting = asyncio.create_task(keep_reporting(engine, wall, 0.01))
        engine.submit(avatar_spec(num_inference_steps=9, previews=True), face(), denoiser)
        await eventually(lambda: asyncio.sleep(0, denoiser.previewed))
        reported = wall.reports
        await eventually(lambda: asyncio.sleep(0, wall.reports > reported + 1))
        assert (wall.previews, len(denoiser.previewed)) == ([], 1)
        denoiser.held_after = None
        denoiser.gate.set()
        await asyncio.to_thread(engine.close)
        await reporting

    asyncio.run(run())


@pytest.mark.parametrize("checked", [True, False])
def test_where_a_safety_checker_sees_the_images_nobody_sees_them_before(
    checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Checker:
        async def flags(self, _pixels: Pixels) -> bool:
            return True

    load = AvatarGenerator._load
    seen: list[bool] = []
    submit = DiffusionEngine.submit

    def with_checker(generator: AvatarGenerator, name: str) -> LoadedModel:
        return LoadedModel(load(generator, name).denoiser, Checker() if checked else None)  # type: ignore[arg-type]

    def noted(engine: DiffusionEngine, spec: Any, *others: Any) -> Any:
        seen.append(spec.previews)
        return submit(engine, spec, *others)

    async def scenario() -> None:
        generator = AvatarGenerator.__new__(AvatarGenerator)
        await generator.__init__(GENERATOR)  # type: ignore[misc]  # as Serve does
        spec = avatar_spec(model="embedded", width=128, height=128, num_inference_steps=1, previews=True)
        await asyncio.gather(generator.generate(spec, face()), return_exceptions=True)
        generator._engine.close()

    monkeypatch.setattr(AvatarGenerator, "_load", with_checker)
    monkeypatch.setattr(DiffusionEngine, "submit", noted)
    asyncio.run(scenario())
    assert seen == [not checked]

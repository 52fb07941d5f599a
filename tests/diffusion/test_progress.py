"""How far images are, as an asyncio program is told while the engine draws."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from deployments.diffusion.engine.engine import DiffusionEngine
from deployments.diffusion.engine.latency_model import LatencyModel
from deployments.diffusion.engine.progress import keep_reporting
from deployments.types import ImagePreview, ImageProgress
from tests.support.fakes import CountingDenoiser, avatar_spec, face

WAIT_S = 10
EVERY_S = 0.01


class Wall:
    """Where progress is written; it can be out of reach."""

    def __init__(self) -> None:
        self.reports: list[Sequence[ImageProgress]] = []
        self.models: list[Mapping[str, float]] = []
        self.refused = 0
        self.open = True

    async def report(self, progress: Sequence[ImageProgress], previews: Sequence[ImagePreview] = ()) -> None:
        if not self.open:
            self.refused += 1
            raise ConnectionRefusedError("nobody is there")
        self.reports.append(progress)

    async def report_models(self, loaded: Mapping[str, float]) -> None:
        self.models.append(loaded)


@pytest.fixture
def denoiser() -> CountingDenoiser:
    return CountingDenoiser()


@pytest.fixture
def engine(denoiser: CountingDenoiser) -> Iterator[DiffusionEngine]:
    engine = DiffusionEngine(LatencyModel(max_batch_size=4), ageing=0.25)
    yield engine
    denoiser.gate.set()
    engine.close()


async def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(EVERY_S)


def test_the_models_in_memory_are_reported_also_while_nothing_is_drawn(engine: DiffusionEngine) -> None:
    async def run() -> None:
        wall = Wall()
        reporting = asyncio.create_task(keep_reporting(engine, wall, EVERY_S, lambda: {"one": 2.5}))
        await until(lambda: wall.models)
        assert wall.models[0] == {"one": 2.5}
        assert not wall.reports
        reporting.cancel()

    asyncio.run(run())


def test_an_image_is_reported_while_it_is_drawn_and_not_after(
    engine: DiffusionEngine, denoiser: CountingDenoiser
) -> None:
    async def run() -> None:
        wall = Wall()
        reporting = asyncio.create_task(keep_reporting(engine, wall, EVERY_S))
        denoiser.gate.clear()
        row = engine.submit(avatar_spec(task_id="t", image_index=3, num_inference_steps=5), face(), denoiser)
        await until(lambda: wall.reports)
        (progress,) = wall.reports[-1]
        assert (progress.task_id, progress.image_index, progress.step, progress.steps) == ("t", 3, 0, 5)
        denoiser.gate.set()
        await asyncio.wrap_future(row.future)
        assert engine.progress() == []
        await asyncio.to_thread(engine.close)
        await asyncio.wait_for(reporting, WAIT_S)

    asyncio.run(run())


def test_reports_go_on_after_some_that_could_not_be_taken(engine: DiffusionEngine, denoiser: CountingDenoiser) -> None:
    async def run() -> None:
        wall = Wall()
        wall.open = False
        reporting = asyncio.create_task(keep_reporting(engine, wall, EVERY_S))
        denoiser.gate.clear()
        engine.submit(avatar_spec(), face(), denoiser)
        await until(lambda: wall.refused > 1)
        wall.open = True
        await until(lambda: wall.reports)
        denoiser.gate.set()
        await asyncio.to_thread(engine.close)
        await asyncio.wait_for(reporting, WAIT_S)

    asyncio.run(run())

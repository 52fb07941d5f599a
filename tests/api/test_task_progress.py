"""The steps of a task on their way from a generator to whoever asks, through a real Valkey."""

import asyncio
import pickle
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from deployments.types import ImageProgress
from serve_app.backends.redis import BrokerSettings
from serve_app.generation.validation import Caller
from serve_app.tasks.progress import ProgressReporter
from tests.support.ingresses import Ingress, ScenarioRunner, scenario_runner
from tests.support.listeners import listening
from tests.support.tasks import AVATAR, queued

At = Callable[..., None]
Report = Callable[..., Awaitable[None]]


@pytest.fixture
def at(valkey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScenarioRunner:
    return scenario_runner(valkey, tmp_path, monkeypatch)


@pytest.fixture
def reporter(valkey: Path) -> ProgressReporter:
    """As a generator replica has it: unpickled there."""
    copy = pickle.loads(pickle.dumps(ProgressReporter(BrokerSettings(), valkey)))
    assert isinstance(copy, ProgressReporter)
    return copy


async def started(make: Callable[..., Ingress], batch: int) -> tuple[Ingress, str]:
    ingress = make("picture")
    sent = await ingress.send(Caller("ann"), celery=True, batch=batch, num_inference_steps=10).answer
    await ingress.tasks.claim(sent.task.task_id)
    return ingress, sent.task.task_id


async def progress(ingress: Ingress, task_id: str) -> Any:
    record = await ingress.service.find(task_id, "ann")
    return (await ingress.service.envelope(record, "")).output["progress"]


def test_a_task_tells_the_mean_step_of_its_images_and_when_the_last_is_done(at: At, reporter: ProgressReporter) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, task_id = await started(make, batch=3)
        assert await progress(ingress, task_id) == {
            "step": 0, "steps": 10, "images_done": 0, "images": 3, "queue_position": 0, "eta_s": None,
            "image_steps": [0, 0, 0],
        }  # fmt: skip
        await ingress.tasks.note_image(task_id, 0, AVATAR)
        late = ImageProgress(task_id, 0, 9, 10, 1.0, 0)  # was done since
        await reporter.report([
            late, ImageProgress(task_id, 1, 5, 10, 2.0, 0), ImageProgress(task_id, 2, 0, 10, 4.5, 1),
            ImageProgress("another", 1, 7, 10, 99.0, 0),
        ])  # fmt: skip
        assert await progress(ingress, task_id) == {
            "step": 5, "steps": 10, "images_done": 1, "images": 3, "queue_position": 0, "eta_s": 4.5,
            "image_steps": [10, 5, 0],
        }  # fmt: skip

    at(scenario)


def test_images_that_wait_in_the_generator_say_how_many_are_before_them(at: At, reporter: ProgressReporter) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, task_id = await started(make, batch=1)
        await reporter.report([ImageProgress(task_id, 0, 0, 10, 8.0, 3)])
        assert (await progress(ingress, task_id))["queue_position"] == 3

    at(scenario)


def test_a_task_with_an_image_done_is_in_no_queue_any_more(at: At, reporter: ProgressReporter) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, task_id = await started(make, batch=2)
        await ingress.tasks.note_image(task_id, 0, AVATAR)
        await reporter.report([ImageProgress(task_id, 1, 0, 10, 8.0, 3)])
        assert (await progress(ingress, task_id))["queue_position"] == 0

    at(scenario)


def test_whoever_follows_a_task_hears_of_its_steps(at: At, reporter: ProgressReporter) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        await queued(ingress.tasks, "a")
        await ingress.tasks.claim("a")
        async with listening(ingress) as (listener,):
            await listener.heard(1)
            for step in (1, 2):
                await reporter.report([ImageProgress("a", 0, step, 12, 3.0, 0)])
                await listener.heard(1 + step)
            assert listener.events[-1][1] == "progress"

    at(scenario)


def test_what_a_dead_generator_said_is_forgotten(at: At, reporter: ProgressReporter) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, task_id = await started(make, batch=1)
        await reporter.report([ImageProgress(task_id, 0, 4, 10, 8.0, 0)])
        assert await ingress.redis.ttl(ingress.keys.progress(task_id)) in (4, 5)
        await ingress.redis.delete(ingress.keys.progress(task_id))
        assert (await progress(ingress, task_id))["step"] == 0

    at(scenario)


def test_a_reporter_that_is_connected_can_be_pickled(at: At, reporter: ProgressReporter) -> None:
    """Serve does so with that of a running generator, when its controller starts again."""

    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, task_id = await started(make, batch=1)
        await reporter.report([ImageProgress(task_id, 0, 4, 10, 8.0, 0)])
        await pickle.loads(pickle.dumps(reporter)).report([ImageProgress(task_id, 0, 5, 10, 8.0, 0)])
        assert (await progress(ingress, task_id))["step"] == 5

    at(scenario)


def test_a_broker_that_is_away_is_a_connection_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.backends.redis.TRIES", 0)
    reporter = ProgressReporter(BrokerSettings(), tmp_path)  # nobody started its server
    with pytest.raises(ConnectionError):
        asyncio.run(reporter.report([ImageProgress("a", 0, 4, 10, 8.0, 0)]))

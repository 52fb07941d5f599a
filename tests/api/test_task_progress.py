"""The steps of a task on their way from a generator to whoever asks, through a real Valkey."""

import asyncio
import pickle
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as SyncRedis

from deployments.types import ImagePreview, ImageProgress
from serve_app.backends.redis import FOLDER, BrokerSettings, own_url
from serve_app.generation.validation import Caller
from serve_app.tasks.progress import ProgressReporter
from tests.support.ingresses import Ingress, ScenarioRunner, scenario_runner
from tests.support.listeners import listening
from tests.support.polling import eventually
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
            "image_steps": [0, 0, 0], "previews": [],
        }  # fmt: skip
        await ingress.tasks.note_image(task_id, 0, AVATAR)
        late = ImageProgress(task_id, 0, 9, 10, 1.0, 0)  # was done since
        await reporter.report([
            late, ImageProgress(task_id, 1, 5, 10, 2.0, 0), ImageProgress(task_id, 2, 0, 10, 4.5, 1),
            ImageProgress("another", 1, 7, 10, 99.0, 0),
        ])  # fmt: skip
        assert await progress(ingress, task_id) == {
            "step": 5, "steps": 10, "images_done": 1, "images": 3, "queue_position": 0, "eta_s": 4.5,
            "image_steps": [10, 5, 0], "previews": [],
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


PREVIEW = ImagePreview("a", 1, 3, 12, "data:image/jpeg;base64,c2hvd24gYW5kIGdvbmU=")


async def is_subscribed(ingress: Ingress) -> bool:
    ((_channel, subscribers),) = await ingress.redis.pubsub_numsub(ingress.keys.previews)
    return bool(subscribers)


async def heard_of_previews(make: Callable[..., Ingress], reporter: ProgressReporter, *, wanted: bool) -> list[Any]:
    """`output.progress.previews` of all events of a task whose second image has a preview."""
    ingress = make("picture")
    await queued(ingress.tasks, "a", batch=2, previews=wanted)
    await ingress.tasks.claim("a")
    async with listening(ingress, count=2) as (listener, other):
        await listener.heard(1)
        if wanted:
            await eventually(lambda: is_subscribed(ingress))
            await ingress.redis.publish(ingress.keys.previews, '{"task_id": "a", "of": "another version"}')
        await reporter.report([ImageProgress("a", 1, 3, 12, 3.0, 0)], [PREVIEW])
        await listener.heard(2)
        await other.heard(2)
        if wanted:
            await eventually(lambda: asyncio.sleep(0, listener.events[-1][2]["output"]["progress"]["previews"][1]))
    assert ingress.service.changes.previews._reader is None
    return [envelope["output"]["progress"]["previews"] for _id, _name, envelope in listener.events]


def test_who_follows_a_task_sees_its_previews_where_its_request_wants_them(at: At, reporter: ProgressReporter) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        heard = await heard_of_previews(make, reporter, wanted=True)
        assert heard[0] == [None, None]
        assert heard[-1] == [None, PREVIEW.picture]

    at(scenario)


def test_nobody_sees_previews_unasked(at: At, reporter: ProgressReporter) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        assert set(map(tuple, await heard_of_previews(make, reporter, wanted=False))) == {()}

    at(scenario)


def test_previews_are_kept_nowhere(at: At, reporter: ProgressReporter, valkey: Path) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        await heard_of_previews(make, reporter, wanted=True)
        ingress = make()
        record = await ingress.service.find("a", "ann")
        assert (await ingress.service.envelope(record, "")).output["progress"]["previews"] == []
        payload = b"c2hvd24gYW5kIGdvbmU"
        await ingress.redis.config_set("rdbcompression", "no")
        await ingress.redis.execute_command("SAVE")
        files = [path for path in (valkey / FOLDER).rglob("*") if path.is_file()]
        assert any(b"face-avatar:task:a" in path.read_bytes() for path in files)
        assert not [path for path in files if payload in path.read_bytes()]
        keys = [str(key) async for key in ingress.redis.scan_iter("*")]
        with SyncRedis.from_url(own_url(valkey)) as raw:  # it decodes nothing
            kept = {key: raw.dump(key) for key in keys}
        assert ingress.keys.progress("a") in kept
        assert not [key for key, dumped in kept.items() if payload in dumped]

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

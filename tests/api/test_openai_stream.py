"""An edit as a stream of events, from previews that a generator sends through a real Valkey."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import ImageEditCompletedEvent

from deployments.types import ImagePreview
from serve_app.api.openai.requests import ImageEditRequest
from serve_app.api.openai.streaming import EditCompleted, PartialImage, PartialImages, StreamedEdit, encoded
from serve_app.backends.redis import BrokerSettings
from serve_app.generation.validation import Caller
from serve_app.photos.sample import sample_photo
from serve_app.tasks.models import Failure
from serve_app.tasks.progress import ProgressReporter
from tests.support.http_clients import browsing
from tests.support.ingresses import Ingress, ScenarioRunner, scenario_runner
from tests.support.photos import png
from tests.support.pipelines import PIXELS
from tests.support.polling import eventually

At = Callable[..., None]
Make = Callable[..., Ingress]


@pytest.fixture
def at(valkey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScenarioRunner:
    return scenario_runner(valkey, tmp_path, monkeypatch)


@pytest.fixture
def reporter(valkey: Path) -> ProgressReporter:
    return ProgressReporter(BrokerSettings(), valkey)


def streamed(ingress: Ingress, **fields: Any) -> tuple[StreamedEdit, str]:
    """An edit, and the id of its task."""
    body = ImageEditRequest.model_validate(
        {"image": "https://example.org/me.jpg", "stream": True, "partial_images": 2, "output_format": "webp", **fields}
    )
    caller, request = Caller("ann"), body.avatar_request("face-avatar")
    task = ingress.service.validator.task(request, caller)
    return StreamedEdit(ingress.service, task, body, request, caller, AsyncExitStack()), task.task_id


async def first_of(ingress: Ingress, edit: StreamedEdit, show: Callable[[], Awaitable[None]]) -> tuple[Any, Any]:
    """The events, and the first of them, which comes of what `show` does when the pipeline works."""
    events = edit.events()
    first = asyncio.ensure_future(anext(events))
    await eventually(lambda: asyncio.sleep(0, ingress.pipeline.jobs))
    await eventually(lambda: is_subscribed(ingress))
    await show()
    return events, await first


async def is_subscribed(ingress: Ingress) -> bool:
    ((_channel, subscribers),) = await ingress.redis.pubsub_numsub(ingress.keys.previews)
    return bool(subscribers)


def test_previews_on_the_way_become_partial_images_and_the_file_the_last_event(
    at: At, reporter: ProgressReporter
) -> None:
    async def scenario(make: Make) -> None:
        ingress = make(None)  # its pipeline waits
        edit, task_id = streamed(ingress)

        def show(step: int) -> Awaitable[None]:
            preview = ImagePreview(task_id, 0, step, 12, f"data:image/jpeg;base64,step{step}")
            return reporter.report([], [ImagePreview("another", 0, 11, 12, "data:,other"), preview])

        events, first = await first_of(ingress, edit, lambda: show(5))
        assert isinstance(first, PartialImage)
        assert (first.b64_json, first.partial_image_index, first.size) == ("step5", 0, "512x512")
        assert (first.output_format, first.background, first.quality) == ("webp", "opaque", "auto")
        await show(9)
        second = await anext(events)
        assert (second.b64_json, second.partial_image_index) == ("step9", 1)
        ingress.pipeline.gate.set()
        last = await anext(events)
        assert isinstance(last, EditCompleted)
        assert last.b64_json == base64.b64encode(png(PIXELS)).decode()
        assert last.usage.total_tokens == 32 * 32
        assert not await is_subscribed(ingress)
        assert [event async for event in events] == []

    at(scenario)


def test_a_client_that_leaves_cancels_the_work(at: At, reporter: ProgressReporter) -> None:
    async def scenario(make: Make) -> None:
        ingress = make(None)
        edit, task_id = streamed(ingress)
        preview = ImagePreview(task_id, 0, 6, 12, "data:,some")
        events, _first = await first_of(ingress, edit, lambda: reporter.report([], [preview]))
        await events.aclose()
        assert ingress.pipeline.cancelled == 1
        assert (await ingress.service.find(task_id, "ann")).status == "CANCELLED"

    at(scenario)


def test_what_goes_wrong_after_the_first_event_is_an_event_too(at: At, reporter: ProgressReporter) -> None:
    async def scenario(make: Make) -> None:
        ingress = make(None)
        edit, task_id = streamed(ingress)
        preview = ImagePreview(task_id, 0, 6, 12, "data:,some")
        events, first = await first_of(ingress, edit, lambda: reporter.report([], [preview]))
        await ingress.service.cancel(task_id, "ann")
        *_, last = [text async for text in encoded(first, events)]
        name, data = last.strip().split("\n")
        assert name == "event: error"
        assert json.loads(data.removeprefix("data: "))["error"]["code"] == "conflict"

    at(scenario)


def test_a_task_that_fails_at_once_has_no_event_before_its_failure(at: At, tmp_path: Path) -> None:
    async def scenario(make: Make) -> None:
        ingress = make(RuntimeError("a bug"), "picture")
        async with browsing(ingress, tmp_path) as (http, _owner):
            secret = http.headers["authorization"].removeprefix("Bearer ")
            client = openai.AsyncOpenAI(
                base_url="http://service/v1", api_key=secret, max_retries=0, http_client=http
            )  # fmt: skip
            with pytest.raises(RuntimeError, match="a bug"):  # which Starlette raises again after its answer
                await client.images.edit(image=sample_photo().read_bytes(), prompt="", stream=True)
            stream = await client.images.edit(image=sample_photo().read_bytes(), prompt="", stream=True)
            (event,) = [event async for event in stream]
            assert isinstance(event, ImageEditCompletedEvent)

    at(scenario)


def test_a_cancelled_edit_is_not_said_to_be_withheld(at: At) -> None:
    async def scenario(make: Make) -> None:
        ingress = make(None)
        edit, task_id = streamed(ingress, partial_images=0)
        answered = asyncio.ensure_future(anext(edit.events()))
        await eventually(lambda: asyncio.sleep(0, ingress.pipeline.jobs))
        await ingress.service.cancel(task_id, "ann")
        failure = await answered
        assert isinstance(failure, Failure)
        assert (failure.status, failure.error) == (409, "Conflict")

    at(scenario)


@pytest.mark.parametrize(
    ("count", "steps", "sent"),
    [
        (0, range(1, 13), []),
        (1, range(1, 13), [6]),
        (2, range(1, 13), [4, 8]),
        (3, range(1, 13), [3, 6, 9]),
        (3, [2, 2, 11, 11, 12], [11, 12]),
    ],
)
def test_partial_images_are_spread_over_the_steps(count: int, steps: list[int], sent: list[int]) -> None:
    chosen = PartialImages(count)
    indices = {step: chosen.index_of(ImagePreview("a", 0, step, 12, "")) for step in dict.fromkeys(steps)}
    assert {step: index for step, index in indices.items() if index is not None} == {
        step: index for index, step in enumerate(sent)
    }

"""What becomes of requests whose clients leave, repeat themselves or cancel. The broker and the store are real."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.errors import DeadlineError, NoFaceError, UnsafeImageError
from deployments.types import Photo
from serve_app.auth.owner_use import OwnerUse
from serve_app.auth.tokens import UNLIMITED, Token
from serve_app.auth.usage import usage_of
from serve_app.backends.object_store import photo_key, photo_keys, result_key
from serve_app.backends.secrets import sha256
from serve_app.catalog.catalog import CATALOGUES
from serve_app.errors import (
    BrokerError,
    ForbiddenError,
    ImageUrlError,
    InvalidRequestError,
    OverloadedError,
    RateLimitError,
    UnknownAppError,
)
from serve_app.generation.pictures import PhotoIntake
from serve_app.generation.validation import Caller
from serve_app.photos.source import PhotoSource
from serve_app.schemas.errors import answer_to
from serve_app.tasks.models import Outcome, TaskRecord, Webhook
from serve_app.tasks.store import TaskStore
from serve_app.tasks.stream import TaskQueue
from tests.support.ingresses import KEYED, Ingress, ScenarioRunner, Sent, do_nothing, scenario_runner
from tests.support.photos import photo_files
from tests.support.pipelines import PIXELS
from tests.support.polling import eventually
from tests.support.stores import exists
from tests.support.tasks import AVATAR, task


@pytest.fixture
def at(valkey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScenarioRunner:
    return scenario_runner(valkey, tmp_path, monkeypatch)


def test_a_queued_request_with_a_key_goes_on_when_its_client_leaves(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        ingress.gate.clear()
        first = ingress.send(celery=True)
        await eventually(lambda: ingress.tasks.get(first.task.task_id))
        await first.leave()
        again = ingress.send(celery=True)
        ingress.gate.set()
        record = await again.answer
        assert record.task.task_id == first.task.task_id
        assert record.status == "PENDING"
        assert record.message_id is not None

    at(scenario)


@pytest.mark.parametrize("celery", [False, True])
def test_a_run_that_outlives_its_client_keeps_the_uploaded_photo_until_it_is_decoded(
    at: Callable[..., None], celery: bool
) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")

        async def photos_later(sources: Sequence[PhotoSource], owner: str) -> list[Photo]:
            await ingress.gate.wait()
            return await PhotoIntake.photos(ingress.service._intake, sources, owner)

        ingress.service._intake.photos = photos_later  # type: ignore[method-assign]
        ingress.gate.clear()
        source = PhotoSource(photo_files()["astronaut.png"])
        with source.held():  # as its route does
            sent = ingress.send(file_url=source, celery=celery)
            await eventually(lambda: ingress.tasks.get(sent.task.task_id))
            await sent.leave()
        assert source.held_bytes > 0
        ingress.gate.set()
        await eventually(lambda: is_dropped(source))
        record = await ingress.send(file_url=PhotoSource(photo_files()["astronaut.png"]), celery=celery).answer
        assert record.task.task_id == sent.task.task_id
        assert record.status == ("PENDING" if celery else "SUCCESS")

    async def is_dropped(source: PhotoSource) -> bool:
        return source.held_bytes == 0

    at(scenario)


def test_a_photo_is_not_held_while_its_images_are_made(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make(None)
        del ingress.service._intake.photos
        source = PhotoSource(photo_files()["astronaut.png"])
        with source.held():
            sent = ingress.send(Caller("ann"), file_url=source)
            await eventually(lambda: jobs_of(ingress))
            assert source.held_bytes == 0
            await sent.leave()

    async def jobs_of(ingress: Ingress) -> list[Any]:
        return ingress.pipeline.jobs

    at(scenario)


def test_a_queued_request_without_a_key_ends_with_its_client_and_leaves_nothing(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        ingress.gate.clear()
        sent = ingress.send(Caller("ann"), celery=True)
        await eventually(lambda: ingress.tasks.get(sent.task.task_id))
        await sent.leave()
        record = await ingress.tasks.get(sent.task.task_id)
        assert record is not None
        assert record.status == "CANCELLED"
        assert not await exists(ingress.results, photo_key(sent.task.task_id))

    at(scenario)


def test_every_photo_of_a_queued_task_is_stored_and_deleted_when_it_is_cancelled(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        urls = [f"https://example.org/{name}.jpg" for name in "abc"]
        sent = ingress.send(Caller("ann"), celery=True, file_url=None, file_urls=urls)
        await sent.answer
        keys = photo_keys(sent.task.task_id, 4)
        assert [await exists(ingress.results, key) for key in keys] == [True, True, True, False]
        await ingress.service.cancel(sent.task.task_id, "ann")
        assert not any([await exists(ingress.results, key) for key in keys])

    at(scenario)


def test_the_photos_of_a_request_are_fetched_at_once_and_the_bad_one_is_named(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        intake = PhotoIntake(ingress.service.settings, OwnerUse(ingress.redis))
        all_began, began = asyncio.Event(), []

        async def fetch(source: PhotoSource, _owner: str) -> bytes:
            began.append(source.url)
            if len(began) == 3:
                all_began.set()
            await all_began.wait()
            if source.url.endswith("b.jpg"):
                raise ImageUrlError("no", reason="status")
            return b""

        intake._fetcher.fetch = fetch  # type: ignore[method-assign]
        sources = [PhotoSource(f"https://example.org/{name}.jpg") for name in "abc"]
        with pytest.raises(ImageUrlError) as caught:
            await intake.photos(sources, "ann")
        assert caught.value.data["photo"] == 1
        await intake.decoder.close()

    at(scenario)


@pytest.mark.parametrize("celery", [False, True])
def test_a_photo_is_fetched_for_the_owner_of_its_request(at: Callable[..., None], celery: bool) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        await ingress.send(Caller("bob"), celery=celery).answer
        assert ingress.photo_owners == ["bob"]

    at(scenario)


def test_a_repeat_of_a_queued_request_takes_over_from_an_ingress_that_died(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        dead, alive = make("picture"), make("picture")
        dead.gate.clear()
        first = dead.send(celery=True)
        await eventually(lambda: dead.tasks.get(first.task.task_id))
        again = alive.send(celery=True)
        await dead.die()
        record = await again.answer
        assert record.task.task_id == first.task.task_id
        assert record.message_id is not None
        assert await exists(alive.results, photo_key(first.task.task_id))

    at(scenario)


def test_a_repeat_waits_for_the_first_and_nothing_is_drawn_twice(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, other = make(None), make("picture")
        first = ingress.send()
        await eventually(lambda: ingress.tasks.get(first.task.task_id))
        repeats = [ingress.send(), other.send()]
        ingress.pipeline.gate.set()
        records = [await sent.answer for sent in [first, *repeats]]
        assert {record.task.task_id for record in records} == {first.task.task_id}
        assert {record.status for record in records} == {"SUCCESS"}
        assert (len(ingress.pipeline.photos), len(other.pipeline.photos)) == (1, 0)

    at(scenario)


def test_repeats_that_wait_are_a_share_of_those_of_all_owners(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make(None, None, admission={"max_repeats": 2})
        firsts = [ingress.send(Caller(owner, "key")) for owner in ("ann", "bob")]
        for first in firsts:
            await eventually(lambda first=first: ingress.tasks.get(first.task.task_id))
        repeats = [ingress.send(Caller("ann", "key")).answer for _ in range(3)]
        (refused,), waiting = await asyncio.wait(repeats, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(OverloadedError, match="2 requests wait for the answer"):
            await refused
        others = ingress.send(Caller("bob", "key")).answer  # who holds none gets one in
        ingress.pipeline.gate.set()
        answers = [await answer for answer in (*(first.answer for first in firsts), *waiting, others)]
        assert {record.status for record in answers} == {"SUCCESS"}
        repeat = await ingress.send(Caller("ann", "key")).answer
        assert repeat.task.task_id == firsts[0].task.task_id

    at(scenario)


def test_a_lease_that_ran_out_in_the_same_ingress_starts_no_second_run(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make(None)
        first = ingress.send()
        await eventually(lambda: asyncio.sleep(0, bool(ingress.pipeline.photos)))
        await ingress.redis.delete(ingress.keys.lease(first.task.task_id))
        again = ingress.send()
        await asyncio.sleep(0.5)  # ten times as long as the pause between two looks
        ingress.pipeline.gate.set()
        assert (await again.answer).status == (await first.answer).status == "SUCCESS"
        assert len(ingress.pipeline.photos) == 1

    at(scenario)


def test_whoever_loses_its_task_to_another_ingress_waits_for_that_one(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, other = make(None), make("picture")
        sent = ingress.send()
        await eventually(lambda: asyncio.sleep(0, bool(ingress.pipeline.photos)))
        await ingress.redis.set(other.keys.lease(sent.task.task_id), "ingress1", px=60_000)
        await asyncio.sleep(0.5)  # ten times as long as the pause between two looks
        assert not sent.answer.done()
        await other.tasks.finish(sent.task, "SUCCESS", (await _record(other, sent)).outcome)
        assert (await sent.answer).status == "SUCCESS"

    at(scenario)


async def _record(ingress: Ingress, sent: Sent) -> TaskRecord:
    record = await ingress.tasks.get(sent.task.task_id)
    assert record is not None
    return record


def test_a_synchronous_request_that_is_cancelled_answers_so_and_leaves_no_files(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make(None)
        sent = ingress.send(Caller("ann"))
        key = result_key(sent.task.task_id, 0, "png")
        await eventually(lambda: exists(ingress.results, key))
        await ingress.service.cancel(sent.task.task_id, "ann")
        assert (await sent.answer).status == "CANCELLED"
        assert not await exists(ingress.results, key)

    at(scenario)


def test_the_runtime_of_a_record_is_that_of_its_answer(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        sent = ingress.send(Caller("ann"))
        answer = await ingress.service.envelope(await sent.answer, "http://service")
        found = await ingress.service.find(sent.task.task_id, "ann")
        later = await ingress.service.envelope(found, "http://service")
        assert later.time_required.runtime == pytest.approx(answer.time_required.runtime, abs=0.5)
        assert later.time_required.runtime > 0

    at(scenario)


def test_a_full_queue_refuses_new_tasks_and_leaves_nothing_of_them(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        known = await ingress.send(celery=True).answer
        object.__setattr__(ingress.service.settings.queue, "max_tasks", 1)
        refused = ingress.send(Caller("ann"), celery=True)
        with pytest.raises(OverloadedError):
            await refused.answer
        assert await ingress.tasks.get(refused.task.task_id) is None
        assert (await ingress.send(celery=True).answer).task.task_id == known.task.task_id
        object.__setattr__(ingress.service.settings.queue, "max_tasks", 1000)

    at(scenario)


class ColdStages:
    """One of the stages stands at zero replicas."""

    async def require_warm(self, photos: Sequence[Photo], face_model: str | None = None) -> None:
        assert [photo.pixels is PIXELS for photo in photos] == [True]
        raise OverloadedError("AvatarGenerator is being started.", 77)

    def close(self) -> None:
        """Nothing was begun."""


def test_at_zero_replicas_who_waits_is_told_when_to_come_back_and_who_queues_is_accepted(
    at: Callable[..., None],
) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        ingress.service.creation._stages = ColdStages()  # type: ignore[assignment]
        for caller in (Caller("ann"), KEYED, KEYED):  # a refusal frees its key
            refused = ingress.send(caller)
            with pytest.raises(OverloadedError) as caught:
                await refused.answer
            assert caught.value.retry_after_s == 77
            assert (await _record(ingress, refused)).status == "FAILED"
        assert not ingress.service.creation._limits._drawing._held
        assert (await ingress.send(Caller("ann"), celery=True).answer).status == "PENDING"

    at(scenario)


@pytest.mark.parametrize(("outcome", "status"), [("picture", "SUCCESS"), (NoFaceError("none"), "FAILED")])
def test_what_a_client_was_answered_while_the_broker_was_away_is_recorded_when_it_is_back(
    at: Callable[..., None], monkeypatch: pytest.MonkeyPatch, outcome: Any, status: str
) -> None:
    monkeypatch.setattr("serve_app.generation.execution.PAUSES_S", (0.05,))

    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, finish, away = make(outcome), TaskStore.finish, [True]

        async def finish_if_there(*arguments: Any, **options: Any) -> bool:
            if away[0]:
                raise BrokerError("away")
            return await finish(ingress.tasks, *arguments, **options)

        monkeypatch.setattr(ingress.tasks, "finish", finish_if_there)
        sent = ingress.send()
        (answer,) = await asyncio.gather(sent.answer, return_exceptions=True)
        assert isinstance(answer, NoFaceError) or answer.status == "SUCCESS"
        assert (await _record(ingress, sent)).status == "STARTED"
        again = ingress.send()  # it waits for the record, and nothing is drawn twice
        away[0] = False
        assert (await again.answer).status == status
        assert (await _record(ingress, sent)).status == status
        assert len(ingress.pipeline.photos) == 1

    at(scenario)


def test_an_error_reaches_its_client_also_if_the_lease_is_looked_after_while_it_is_recorded(
    at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, looks = make(NoFaceError("none")), [0]
        statuses, delete = ingress.tasks.statuses, ingress.results.delete

        async def noted(task_ids: Sequence[str]) -> list[str | None]:
            looks[0] += 1
            return await statuses(task_ids)

        async def after_looks(keys: Iterable[str]) -> None:
            before = looks[0]
            await eventually(lambda: asyncio.sleep(0, looks[0] > before + 2))
            await delete(keys)

        monkeypatch.setattr(ingress.tasks, "statuses", noted)
        monkeypatch.setattr(ingress.results, "delete", after_looks)
        for caller in (Caller("ann"), KEYED):
            with pytest.raises(NoFaceError):
                await ingress.send(caller).answer

    at(scenario)


def test_a_photo_whose_task_could_not_be_queued_is_deleted(
    at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")

        async def away(*_: object, **__: object) -> bool:
            raise BrokerError("away")

        monkeypatch.setattr(ingress.tasks, "enqueue", away)
        sent = ingress.send(Caller("ann"), celery=True)
        with pytest.raises(BrokerError):
            await sent.answer
        assert (await _record(ingress, sent)).status == "FAILED"
        assert not await exists(ingress.results, photo_key(sent.task.task_id))

    at(scenario)


async def _measure(ingress: Ingress, task_s: float) -> None:
    """As if a worker had made a task of two images in so many seconds."""
    name = f"measured{task_s}"
    measured = task(name, batch=2)
    await ingress.tasks.create(measured, "PENDING")
    await ingress.tasks.enqueue(name)
    await ingress.tasks.claim(name)
    await ingress.redis.hset(ingress.keys.record(name), "started_at", time.time() - task_s)
    assert await ingress.tasks.finish(measured, "SUCCESS", Outcome())
    await ingress.redis.delete(ingress.keys.queue)


def test_what_cannot_be_done_by_its_deadline_is_refused_and_told_when_to_come_back(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        slow = {"celery": True, "batch": 4, "deadline_s": 60}
        known = await ingress.send(**slow).answer  # nothing was measured yet
        await _measure(ingress, task_s=100)
        with pytest.raises(OverloadedError) as caught:
            await ingress.send(Caller("ann"), **slow).answer
        assert 130 <= caught.value.retry_after_s <= 145  # 4 images of 50 s, less 60 s
        assert (await ingress.send(Caller("ann"), **slow | {"deadline_s": 900}).answer).status == "PENDING"
        assert (await ingress.send(**slow).answer).task.task_id == known.task.task_id

    at(scenario)


def test_a_task_says_when_it_will_be_done_by_how_fast_others_were(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        sent = await ingress.send(Caller("ann"), celery=True, batch=3).answer

        async def eta_s() -> Any:
            record = await ingress.service.find(sent.task.task_id, "ann")
            return (await ingress.service.envelope(record, "")).output["progress"]["eta_s"]

        assert await eta_s() is None
        await _measure(ingress, task_s=400)
        assert await eta_s() == pytest.approx(600, abs=50)
        await ingress.tasks.claim(sent.task.task_id)
        await ingress.tasks.note_image(sent.task.task_id, 0, AVATAR)
        assert await eta_s() == pytest.approx(400, abs=50)
        await _measure(ingress, task_s=4000)
        assert 800 < await eta_s() < 3000  # the last ones count, one alone does not

    at(scenario)


def test_a_full_queue_says_when_there_will_be_room(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        await _measure(ingress, task_s=300)
        await ingress.send(Caller("ann"), celery=True).answer
        queue = TaskQueue(ingress.redis, "worker")
        await queue.take(1, 0.01)
        assert len(await queue.take(1, 0.01)) == 1
        object.__setattr__(ingress.service.settings.queue, "max_tasks", 1)
        with pytest.raises(OverloadedError) as caught:
            await ingress.send(Caller("ann"), celery=True).answer
        assert 300 <= caught.value.retry_after_s <= 330
        object.__setattr__(ingress.service.settings.queue, "max_tasks", 1000)

    at(scenario)


def test_a_webhook_is_recorded_whole_and_shown_without_its_query(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        caller = Caller("ann", base_url="http://service")
        record = await ingress.send(caller, webhook_url="https://example.org/hook?secret=1").answer
        kept = await _record(ingress, Sent(record.task, asyncio.create_task(do_nothing())))
        assert kept.task.webhook == Webhook(url="https://example.org/hook?secret=1", base_url="http://service")
        envelope = await ingress.service.envelope(kept, "http://service")
        assert "secret" not in envelope.model_dump_json()
        assert envelope.output["webhook"]["attempts"] == 0
        assert await ingress.tasks.due_webhooks(5, 5, {}, 60) == [(record.task.task_id, "ann")]

    at(scenario)


@pytest.mark.parametrize(
    "url", ["ftp://example.org", "https://example.org:22/", "https://a@example.org/", "data:,x", "x"]
)
def test_a_webhook_that_may_not_be_called_is_refused_by_its_field(at: Callable[..., None], url: str) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            make("picture").send(webhook_url=url)
        assert [field["field"] for field in caught.value.data["fields"]] == ["webhook_url"]

    at(scenario)


def problems_of(send: Callable[[], object]) -> list[dict[str, Any]]:
    """The fields that a request is refused for."""
    with pytest.raises(InvalidRequestError) as refused:
        send()
    problems: list[dict[str, Any]] = refused.value.data["fields"]
    return problems


def test_a_style_is_one_of_the_apps_and_its_prompt_is_drawn_and_shown(at: Callable[..., None], tmp_path: Path) -> None:
    catalogue = yaml.safe_load((CATALOGUES / "embedded.yaml").read_text())
    ink = {"title": "Ink", "prompt": "{prompt}, in ink", "subject": "a {gender_word}"}
    catalogue["apps"]["face-avatar"]["styles"] = {"ink": ink}
    (tmp_path / "styled.yaml").write_text(yaml.safe_dump(catalogue))

    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture", catalogs=(str(tmp_path / "styled.yaml"),))
        (problem,) = problems_of(lambda: ingress.send(style="oil"))
        assert (problem["field"], problem["accepted"]) == ("style", {"enum": ["ink"]})
        (problem,) = problems_of(lambda: ingress.send(style="ink", prompt="x" * 1995))
        assert (problem["field"], problem["accepted"]) == ("prompt", {"maxLength": 2000})
        record = await ingress.send(style="ink", gender="f").answer
        assert (record.task.request.style, record.task.request.prompt) == ("ink", "a woman, in ink")
        (app,) = ingress.service.apps()
        assert app["styles"]["ink"]["title"] == "Ink"

    at(scenario)


def test_a_fast_request_is_drawn_as_the_preset_of_its_app_says(at: Callable[..., None], tmp_path: Path) -> None:
    catalogue = yaml.safe_load((CATALOGUES / "embedded.yaml").read_text())
    lora = {"file": "d/fast.safetensors"}
    catalogue["apps"]["face-avatar"] |= {
        "fast": {"num_inference_steps": 3, "sampler": "euler-trailing", "lora": lora, "decoder": lora["file"]},
        "downloads": ["d"],
    }
    known = {"url": "https://models.example/{revision}", "revision": "1", "licence_url": "https://models.example"}
    catalogue["downloads"] = {"d": {**known, "licence": "MIT", "folder": "d", "files": {"fast.safetensors": {}}}}
    (tmp_path / "fast.yaml").write_text(yaml.safe_dump(catalogue))

    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture")
        (problem,) = problems_of(lambda: ingress.send(quality="fast"))
        assert (problem["field"], problem["accepted"]) == ("quality", {"enum": ["standard"]})
        (app,) = ingress.service.apps()
        assert (app["qualities"], app["fast"]) == (["standard"], None)

        ingress = make("picture", catalogs=(str(tmp_path / "fast.yaml"),))
        for name, other, own in (
            ("num_inference_steps", 4, 3),
            ("guidance_scale", 2.0, 1.0),
            ("negative_prompt", "hat", ""),
        ):
            (problem,) = problems_of(lambda asked={name: other}: ingress.send(quality="fast", **asked))
            assert (problem["field"], problem["accepted"]) == (name, {"const": own})
        same = {"num_inference_steps": 3, "guidance_scale": 1, "negative_prompt": ""}
        record = await ingress.send(quality="fast", **same).answer
        asked = record.task.request
        assert (asked.quality, asked.num_inference_steps, asked.guidance_scale) == ("fast", 3, 1.0)
        spec = ingress.pipeline.jobs[-1].avatar_spec(0)
        assert (spec.sampler, spec.speed_lora) == ("euler-trailing", "face-avatar/quality=fast")
        assert spec.decoder == "face-avatar"
        assert (await ingress.send(Caller("bob"), guidance_scale=2).answer).task.request.quality == "standard"
        spec = ingress.pipeline.jobs[-1].avatar_spec(0)
        assert (spec.sampler, spec.speed_lora, spec.decoder) == (None, None, None)
        (app,) = ingress.service.apps()
        assert (app["qualities"], app["fast"]["num_inference_steps"]) == (["standard", "fast"], 3)

    at(scenario)


def test_without_consent_a_service_that_asks_for_it_does_nothing(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make("picture", require_consent=True)
        with pytest.raises(InvalidRequestError) as refused:
            ingress.send()
        assert [problem["field"] for problem in refused.value.data["fields"]] == ["consent"]
        record = await ingress.send(consent=True).answer
        kept = await ingress.tasks.get(record.task.task_id)
        assert kept is not None
        assert kept.task.request.consent
        assert not (await make("picture").send(Caller("bob")).answer).task.request.consent

    at(scenario)


def test_an_app_whose_weights_forbid_commerce_is_listed_and_refused_where_commerce_is_meant(
    at: Callable[..., None],
) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make(license_mode="commercial", catalogs=("commercial", "research"))
        listed = {app["app_id"]: app for app in ingress.service.apps()}
        assert [app_id for app_id, app in listed.items() if app["available"]] == ["face-avatar", "face-avatar-sdxl"]
        refused = listed["face-avatar-faceid"]
        assert "buffalo_l" in refused["unavailable_reason"]
        assert {"weights", "licence", "spdx_id", "commercial", "url"} == refused["licences"][0].keys()
        with pytest.raises(ForbiddenError, match="buffalo_l"):
            ingress.send(app_id="face-avatar-faceid")

    at(scenario)


def test_a_client_that_names_an_app_of_former_versions_is_told_those_that_there_are(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make(license_mode="commercial", catalogs=("commercial",))
        with pytest.raises(UnknownAppError) as refused:
            ingress.send(app_id="face-avatar-sd15")
        assert refused.value.data["accepted"] == ["face-avatar", "face-avatar-sdxl"]
        assert answer_to(refused.value) == (404, "Unknown App")

    at(scenario)


def limited(secret: str = "ann", **limits: int) -> Caller:
    """A caller whose token has these limits."""
    digest = sha256(secret)
    token = Token(digest=digest, name=secret, owner=secret, created_at=0, limits=UNLIMITED.model_copy(update=limits))
    return Caller(secret, token=token)


def test_a_token_has_only_so_many_images_made_a_day_by_all_ingresses(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ann = limited(images_per_day=5)
        one, other = make(NoFaceError("no face found"), "picture"), make("picture")
        with pytest.raises(NoFaceError):
            await one.send(ann, batch=2).answer  # which takes none
        assert (await one.send(ann, batch=3).answer).status == "SUCCESS"
        with pytest.raises(RateLimitError, match="of which 2 are left") as refused:
            await other.send(ann, batch=3).answer
        assert 0 < refused.value.retry_after_s <= 24 * 3600
        assert (await other.send(ann, batch=2, celery=True).answer).status == "PENDING"
        for celery in (True, False):
            with pytest.raises(RateLimitError, match="of which 0 are left"):
                await one.send(ann, celery=celery).answer
        assert (await other.send(limited("bob", images_per_day=5)).answer).status == "SUCCESS"

    at(scenario)


@pytest.mark.parametrize(
    "late", [DeadlineError("late"), UnsafeImageError("withheld")], ids=lambda error: type(error).__name__
)
def test_an_image_that_was_drawn_for_nobody_counts_for_its_day(at: Callable[..., None], late: Exception) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ann, ingress = limited(images_per_day=1), make(late, "picture")
        with pytest.raises(type(late)):
            await ingress.send(ann).answer
        with pytest.raises(RateLimitError):
            await ingress.send(ann).answer

    at(scenario)


def test_an_image_of_a_task_that_is_cancelled_counts_for_its_day(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ann, ingress = limited(images_per_day=1), make(None, "picture")
        sent = ingress.send(ann)
        await eventually(lambda: asyncio.sleep(0, bool(ingress.pipeline.photos)))
        await ingress.service.cancel(sent.task.task_id, "ann")
        await sent.answer
        with pytest.raises(RateLimitError):
            await ingress.send(ann).answer

    at(scenario)


def test_a_token_has_only_so_many_images_made_at_once_by_all_ingresses(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        one, other, ann = make("picture"), make("picture", "picture"), limited(images=2)
        one.gate.clear()
        first = one.send(ann, batch=2)
        await eventually(lambda: one.tasks.get(first.task.task_id))
        with pytest.raises(RateLimitError):
            await other.send(ann).answer
        assert (await other.send(limited("bob", images=2)).answer).status == "SUCCESS"
        one.gate.set()
        await first.answer
        assert (await other.send(ann).answer).status == "SUCCESS"
        with pytest.raises(ForbiddenError):
            await other.send(ann, batch=3).answer

    at(scenario)


def test_a_refusal_for_now_frees_the_idempotency_key(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, ann = make("picture", "picture"), limited(images=1)
        keyed = replace(ann, idempotency_key="key")
        ingress.gate.clear()
        first = ingress.send(ann)
        await eventually(lambda: ingress.tasks.get(first.task.task_id))
        with pytest.raises(RateLimitError):
            await ingress.send(keyed).answer
        ingress.gate.set()
        await first.answer
        assert (await ingress.send(keyed).answer).status == "SUCCESS"

    at(scenario)


def test_what_a_token_has_made_is_in_its_usage(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, ann = make("picture"), limited()
        record = await ingress.send(ann).answer
        assert record.task.token == sha256("ann")[:16]
        await ingress.usage.close()
        assert (await usage_of(ingress.redis, record.task.token, 1)).images == 1

    at(scenario)


def test_a_token_has_only_so_many_tasks_in_the_queue_at_once(at: Callable[..., None]) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress, ann = make(), limited(queued=2)
        for _ in range(2):
            assert (await ingress.send(ann, celery=True).answer).status == "PENDING"
        with pytest.raises(RateLimitError, match="2 tasks"):
            await ingress.send(ann, celery=True).answer
        assert (await ingress.send(limited("bob", queued=2), celery=True).answer).status == "PENDING"

    at(scenario)

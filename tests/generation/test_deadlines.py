"""`start_deadline_s` and `fallback_app_id` at the moment when a request is accepted. Broker and store are real."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve import metrics

from deployments.errors import AvatarError, NotBegunError
from deployments.types import GenerationMetadata
from serve_app.auth.tokens import UNLIMITED, Token
from serve_app.auth.usage import usage_of
from serve_app.backends.secrets import sha256
from serve_app.catalog.catalog import CATALOGUES
from serve_app.errors import (
    ForbiddenError,
    InvalidRequestError,
    OverloadedError,
    RateLimitError,
    UnknownAppError,
)
from serve_app.generation.envelope import effective_record, receipt
from serve_app.generation.validation import ANYBODY, Caller
from serve_app.tasks.loaded_models import LoadedModels
from serve_app.tasks.models import Outcome, StoredAvatar, TaskRecord
from serve_app.tasks.queue_snapshot import QueueReader
from tests.support.ingresses import KEYED, Ingress, ScenarioRunner, scenario_runner
from tests.support.polling import eventually
from tests.support.tasks import task

Make = Callable[..., Ingress]
SLOW, QUICK = "face-avatar", "quick"


@pytest.fixture
def at(valkey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScenarioRunner:
    return scenario_runner(valkey, tmp_path, monkeypatch)


@pytest.fixture
def two_apps(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The settings of a service with another, quick app, of another model; the fields are of the slow one."""

    def written(**fields: Any) -> dict[str, Any]:
        catalogue = yaml.safe_load((CATALOGUES / "embedded.yaml").read_text())
        slow = catalogue["apps"][SLOW]
        ink = {"ink": {"title": "Ink", "prompt": "{prompt}, in ink"}}
        defaults = slow["defaults"] | {"width": 256, "num_inference_steps": 4}
        catalogue["apps"] = {
            SLOW: slow | {"styles": ink} | fields,
            QUICK: slow | {"model": "other", "defaults": defaults},
        }
        (tmp_path / "two.yaml").write_text(yaml.safe_dump(catalogue))
        return {"catalogs": (str(tmp_path / "two.yaml"),)}

    return written


async def measure(ingress: Ingress, *, task_s: float, image_s: float, **of_apps: float) -> None:
    """As if workers had made tasks at this speed of late."""
    pace = {"task_s": task_s, "image_s": image_s} | {f"image_s:{app}": seconds for app, seconds in of_apps.items()}
    await ingress.redis.hset(ingress.keys.throughput, mapping={name: str(seconds) for name, seconds in pace.items()})


async def run_by_a_worker(ingress: Ingress, name: str) -> None:
    """As if a worker had just begun another one's task."""
    await ingress.tasks.create(task(name, owner="bob"), "PENDING")
    await ingress.tasks.enqueue(name)


def refused(error: type[AvatarError], send: Callable[[], object]) -> dict[str, Any]:
    with pytest.raises(error) as caught:
        send()
    return caught.value.data


def test_a_start_deadline_after_the_deadline_is_refused_by_its_field(at: ScenarioRunner) -> None:
    async def scenario(make: Make) -> None:
        ingress = make("picture")
        for fields, most in (({"deadline_s": 5}, 5), ({}, 120), ({"deadline_s": 3000}, 600)):
            data = refused(InvalidRequestError, lambda fields=fields: ingress.send(**fields, start_deadline_s=601))
            (problem,) = data["fields"]
            assert (problem["field"], problem["accepted"]) == ("start_deadline_s", {"maximum": most})
        assert (await ingress.send(deadline_s=5, start_deadline_s=5).answer).status == "SUCCESS"
        assert (await ingress.send(ANYBODY, start_deadline_s=601, celery=True).answer).status == "PENDING"

    at(scenario)


def test_a_request_that_did_not_begin_counts_for_nothing_but_failed_tasks(at: ScenarioRunner) -> None:
    async def scenario(make: Make) -> None:
        limits = UNLIMITED.model_copy(update={"images_per_day": 2})
        token = Token(digest=sha256("ann"), name="ann", owner="ann", created_at=0, limits=limits)
        ingress = make(NotBegunError.within(1), "picture")
        with pytest.raises(NotBegunError):
            await ingress.send(Caller("ann", token=token), batch=2, start_deadline_s=1).answer
        assert (await ingress.send(Caller("ann", token=token), batch=2).answer).status == "SUCCESS"
        with pytest.raises(RateLimitError):
            await ingress.send(Caller("ann", token=token)).answer
        await ingress.usage.close()
        assert (await usage_of(ingress.redis, token.id, 1)).images == 1  # of the pipeline's one prepared picture

    at(scenario)


@pytest.mark.parametrize("celery", [False, True])
def test_a_photo_that_comes_too_late_to_begin_in_time_ends_the_request(at: ScenarioRunner, celery: bool) -> None:
    async def scenario(make: Make) -> None:
        ingress = make("picture")
        ingress.gate.clear()
        sent = ingress.send(ANYBODY, start_deadline_s=0.05, celery=celery)
        with pytest.raises(NotBegunError, match=r"within 0\.05 s"):
            await sent.answer
        record = await ingress.service.find(sent.task.task_id, "")
        assert record.outcome.failure is not None
        assert (record.outcome.failure.status, record.outcome.failure.error) == (504, "Timeout")
        assert not ingress.pipeline.jobs

    at(scenario)


def test_a_request_that_a_dead_ingress_worked_on_has_begun(at: ScenarioRunner) -> None:
    async def scenario(make: Make) -> None:
        dead, alive = make(None), make("picture")
        first = dead.send(start_deadline_s=60)
        while not dead.pipeline.waiting:
            await dead.redis.ping()
        await dead.die()
        record = await alive.send(start_deadline_s=60).answer
        assert (record.task.task_id, record.status) == (first.task.task_id, "SUCCESS")
        assert [job.begun for job in dead.pipeline.jobs + alive.pipeline.jobs] == [False, True]

    at(scenario)


def test_a_queue_in_which_a_task_would_not_begin_in_time_refuses_it(at: ScenarioRunner) -> None:
    async def scenario(make: Make) -> None:
        ingress = make("picture")
        await measure(ingress, task_s=100, image_s=1)
        await run_by_a_worker(ingress, "other")
        await ingress.redis.xgroup_create(ingress.keys.queue, "workers", id="0")
        await ingress.redis.xreadgroup("workers", "worker", {ingress.keys.queue: ">"})
        with pytest.raises(OverloadedError, match="not begin by its start deadline") as caught:
            await ingress.send(celery=True, start_deadline_s=30).answer
        assert caught.value.retry_after_s == 100  # when the running one is done
        assert (await ingress.send(celery=True, start_deadline_s=130).answer).status == "PENDING"

    at(scenario)


def test_a_task_that_no_worker_took_by_its_start_deadline_is_shown_as_over_and_one_that_was_taken_is_not() -> None:
    late = task("a", start_deadline_s=10).model_copy(update={"submitted_at": time.time() - 30})
    waiting = TaskRecord(task=late, status="PENDING", message_id="1-0")
    shown = effective_record(waiting, time.time())
    assert shown.outcome.failure is not None
    assert (shown.status, shown.outcome.failure.error_data) == ("FAILED", {"message": "Not begun within 10 s."})
    taken = waiting.model_copy(update={"started_at": time.time() - 25})  # and handed back
    assert effective_record(taken, time.time()).status == "PENDING"
    assert effective_record(waiting, time.time() - 25).status == "PENDING"


def test_a_task_that_would_be_late_is_drawn_by_the_other_app_which_every_answer_says(
    at: ScenarioRunner, two_apps: Callable[..., dict[str, Any]]
) -> None:
    async def scenario(make: Make) -> None:
        ingress = make("picture", **two_apps())
        asked = {"celery": True, "batch": 4, "deadline_s": 60, "fallback_app_id": QUICK}
        await measure(ingress, task_s=50, image_s=50, **{SLOW: 50, QUICK: 2})
        record = await ingress.send(**asked).answer
        shown = (await ingress.service.envelope(record, "")).model_dump()
        assert shown["app_id"] == shown["input"]["app_id"] == shown["input"]["fallback_app_id"] == QUICK
        assert shown["input"]["fallback_from"] == SLOW
        assert (shown["input"]["num_inference_steps"], shown["input"]["width"]) == (4, 256)  # the other app's
        kept = await ingress.tasks.get(record.task.task_id)
        assert kept is not None
        assert kept.task.request == record.task.request
        await measure(ingress, task_s=1, image_s=1, **{SLOW: 1})
        again = await ingress.send(**asked).answer  # which would be drawn as asked now
        assert (again.task.task_id, again.task.request.app_id) == (record.task.task_id, QUICK)
        other = await ingress.send(ANYBODY, **asked).answer
        assert (other.task.request.app_id, other.task.request.fallback_from) == (SLOW, None)

    at(scenario)


def test_the_time_of_an_image_is_measured_for_the_app_that_drew_it(at: ScenarioRunner) -> None:
    async def scenario(make: Make) -> None:
        ingress = make("picture")
        drawn = task("drawn", batch=2)
        await ingress.tasks.create(drawn, "PENDING")
        await ingress.tasks.enqueue("drawn")
        await ingress.tasks.claim("drawn")
        await ingress.redis.hset(ingress.keys.record("drawn"), "started_at", time.time() - 100)
        assert await ingress.tasks.finish(drawn, "SUCCESS", Outcome())
        for app, image_s in ((SLOW, pytest.approx(50, abs=5)), (QUICK, None)):
            throughput = (await QueueReader(ingress.redis).snapshot(app_id=app)).throughput
            assert throughput == (pytest.approx(100, abs=10), pytest.approx(50, abs=5), image_s)

    at(scenario)


def test_a_task_that_would_be_late_with_both_apps_is_refused_for_the_one_that_was_asked_for(
    at: ScenarioRunner, two_apps: Callable[..., dict[str, Any]]
) -> None:
    async def scenario(make: Make) -> None:
        ingress = make("picture", **two_apps(fallback_app_id=QUICK))
        asked = {"celery": True, "batch": 4, "deadline_s": 60}
        await measure(ingress, task_s=50, image_s=50, **{SLOW: 50, QUICK: 30})
        with pytest.raises(OverloadedError) as caught:
            await ingress.send(ANYBODY, **asked).answer
        assert caught.value.retry_after_s == 140  # 4 images of 50 s, less 60 s
        await ingress.redis.hdel(ingress.keys.throughput, f"image_s:{QUICK}")  # it may be quick, for all that is known
        assert (await ingress.send(ANYBODY, **asked).answer).task.request.app_id == QUICK
        object.__setattr__(ingress.service.settings.queue, "max_tasks", 1)
        with pytest.raises(OverloadedError, match="The queue is full"):  # for every app
            await ingress.send(ANYBODY, **asked).answer
        object.__setattr__(ingress.service.settings.queue, "max_tasks", 1000)

    at(scenario)


@pytest.mark.parametrize("celery", [False, True])
def test_a_model_that_would_be_loaded_for_longer_than_the_deadline_leaves_it_to_one_in_memory(
    at: ScenarioRunner, two_apps: Callable[..., dict[str, Any]], celery: bool
) -> None:
    async def scenario(make: Make) -> None:
        ingress = make("picture", **two_apps())
        models = LoadedModels(ingress.redis)

        async def drawing_app(**fields: Any) -> str:
            asked = {"celery": celery, "deadline_s": 60, "fallback_app_id": QUICK, **fields}
            return (await ingress.send(ANYBODY, **asked).answer).task.request.app_id

        assert await drawing_app() == SLOW  # of neither is it known to be in memory
        await models.report({"other": 3})
        assert await drawing_app() == QUICK  # admission.cold_start_s is more than the deadline
        assert await drawing_app(deadline_s=600) == SLOW
        assert await drawing_app(deadline_s=600, start_deadline_s=20) == QUICK
        await ingress.redis.hset(ingress.redis.key("models", "loads"), "embedded", "10")
        assert await drawing_app() == SLOW
        assert await drawing_app(start_deadline_s=5) == QUICK
        await models.report({"embedded": 10})
        assert await drawing_app(start_deadline_s=5) == SLOW

    at(scenario)


def test_what_the_other_app_lacks_is_refused_at_the_start_where_the_request_names_it(
    at: ScenarioRunner, two_apps: Callable[..., dict[str, Any]]
) -> None:
    async def scenario(make: Make) -> None:
        ingress = make("picture", **two_apps())
        data = refused(InvalidRequestError, lambda: ingress.send(style="ink", fallback_app_id=QUICK))
        assert (data["fallback_app_id"], [problem["field"] for problem in data["fields"]]) == (QUICK, ["style"])
        assert QUICK in data["message"]
        data = refused(UnknownAppError, lambda: ingress.send(fallback_app_id="nobody"))
        assert (data["fallback_app_id"], data["accepted"]) == ("nobody", [SLOW, QUICK])
        data = refused(InvalidRequestError, lambda: ingress.send(fallback_app_id=SLOW))
        assert [problem["field"] for problem in data["fields"]] == ["fallback_app_id"]
        mixed = make(license_mode="commercial", catalogs=("commercial", "research"))
        data = refused(ForbiddenError, lambda: mixed.send(fallback_app_id="face-avatar-faceid"))
        assert data["fallback_app_id"] == "face-avatar-faceid"

    at(scenario)


def test_the_operators_fallback_gives_way_to_the_requests_own_and_is_none_for_what_it_cannot_draw(
    at: ScenarioRunner, two_apps: Callable[..., dict[str, Any]]
) -> None:
    async def scenario(make: Make) -> None:
        ingress = make("picture", **two_apps(fallback_app_id=QUICK))
        await LoadedModels(ingress.redis).report({"other": 3})
        for fields, drawn in (
            ({}, QUICK),
            ({"fallback_app_id": "none"}, SLOW),
            ({"fallback_app_id": "None"}, SLOW),
            ({"fallback_app_id": ""}, QUICK),
            ({"style": "ink"}, SLOW),
        ):
            request = (await ingress.send(ANYBODY, deadline_s=60, **fields).answer).task.request
            assert (request.app_id, request.fallback_app_id) == (drawn, QUICK if drawn == QUICK else None)

    at(scenario)


def test_a_repeat_gets_the_app_of_the_first_also_where_its_ingress_died(
    at: ScenarioRunner, two_apps: Callable[..., dict[str, Any]]
) -> None:
    async def scenario(make: Make) -> None:
        dead, alive = make(None, **two_apps(fallback_app_id=QUICK)), make("picture", **two_apps(fallback_app_id=QUICK))
        await LoadedModels(dead.redis).report({"other": 3})
        first = dead.send(KEYED, deadline_s=60)
        while not dead.pipeline.waiting:
            await dead.redis.ping()
        await LoadedModels(dead.redis).report({"embedded": 3})
        await dead.die()
        record = await alive.send(KEYED, deadline_s=60).answer
        assert (record.task.task_id, record.task.request.app_id) == (first.task.task_id, QUICK)
        assert record.task.request.fallback_from == SLOW

    at(scenario)


@pytest.mark.parametrize("celery", [False, True])
def test_a_fallback_counts_once_also_where_a_repeat_takes_over_from_a_dead_ingress(
    at: ScenarioRunner, two_apps: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, celery: bool
) -> None:
    counted: list[dict[str, str]] = []
    monkeypatch.setattr(metrics.Counter, "inc", lambda _self, _by, tags: counted.append(tags))

    async def scenario(make: Make) -> None:
        dead, alive = make(None, **two_apps(fallback_app_id=QUICK)), make("picture", **two_apps(fallback_app_id=QUICK))
        await LoadedModels(dead.redis).report({"other": 3})
        dead.gate.clear()  # its photo does not come
        first = dead.send(KEYED, deadline_s=60, celery=celery)
        await eventually(lambda: dead.tasks.get(first.task.task_id))
        await dead.die()
        record = await alive.send(KEYED, deadline_s=60, celery=celery).answer
        assert (record.task.task_id, record.task.request.fallback_from) == (first.task.task_id, SLOW)
        assert [tags for tags in counted if "drawn" in tags] == [{"asked": SLOW, "drawn": QUICK}]

    at(scenario)


def test_a_receipt_names_the_app_that_drew_and_the_one_that_was_asked_for() -> None:
    drawn_with = GenerationMetadata("m", {}, "Euler", {}, 1.0, None, "float32", "cpu", {})
    avatar = StoredAvatar("a", "a", 7, None, 0, 0, 0, 0, drawn_with=drawn_with)
    request = task("a").request.model_copy(update={"app_id": QUICK, "fallback_from": SLOW})
    said = receipt(request, avatar)
    assert said is not None
    assert (said.app_id, said.fallback_from) == (QUICK, SLOW)

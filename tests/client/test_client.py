"""The client against a small HTTP service that answers by the contract, and fails in the ways that networks do."""

import asyncio
import base64
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.client import (
    AsyncFaceAvatarClient,
    AvatarParameters,
    ClientError,
    ClientSettingsError,
    ConnectionFailedError,
    Face,
    FaceAvatarClient,
    NotFinishedError,
    PhotoFileError,
    PhotoWarning,
    ServiceError,
    Task,
    TaskProgress,
    UnexpectedAnswerError,
    Verdict,
    WithheldError,
    requests,
)
from serve_app.client.events import MAX_EVENT_BYTES, Event, EventReader
from serve_app.client.exchange import MAX_PAUSE_S, Answer, repeat_pause_s
from serve_app.client.values import MAX_PHOTO_BYTES
from serve_app.launcher import free_port
from serve_app.photos.urls import FetchSettings
from serve_app.schemas.requests import AvatarRequest
from tests.support import fake_service
from tests.support.fake_service import (
    TOKEN,
    FakeService,
    Fault,
    by_proxy,
    cut_short,
    dripping,
    dropped_after,
    dropped_before,
    envelope,
    picture,
    refused,
)

PHOTO = "https://example.org/me.jpg"


@pytest.fixture
def fake() -> Iterator[FakeService]:
    with fake_service.serving() as service:
        yield service


@pytest.fixture
def pauses() -> list[float]:
    """How long the client would have waited, each time."""
    return []


class Awaited:
    """An asynchronous client that is waited for, so that the same tests hold for both."""

    def __init__(self, target: object, runner: asyncio.Runner) -> None:
        self._target = target
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if inspect.iscoroutinefunction(found):
            return lambda *args, **options: self._runner.run(found(*args, **options))
        if inspect.isasyncgenfunction(found):
            return lambda *args, **options: self._runner.run(collected(found(*args, **options)))
        return Awaited(found, self._runner)


async def collected(values: AsyncIterator[Task]) -> list[Task]:
    return [value async for value in values]


@pytest.fixture(params=["waiting", "on a loop"])
def client(request: pytest.FixtureRequest, fake: FakeService, pauses: list[float]) -> Iterator[Any]:
    """Both clients; the asynchronous one awaited."""
    if request.param == "waiting":
        with FaceAvatarClient(fake.url, TOKEN, sleep=pauses.append) as client:
            yield client
        return

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    with asyncio.Runner() as runner:
        awaited = AsyncFaceAvatarClient(fake.url, TOKEN, sleep=sleep)
        yield Awaited(awaited, runner)
        runner.run(awaited.close())


def answering(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status, httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()}), body)


# What is sent, and what comes back


def test_a_photo_goes_out_as_a_data_url_and_a_typed_task_comes_back(
    client: FaceAvatarClient, fake: FakeService, tmp_path: Path
) -> None:
    photo = tmp_path / "me.png"
    photo.write_bytes(picture(1))
    task = client.avatars.create(photo, batch=2, gender="female", seed=40)
    sent = fake.seen[0]
    assert sent.headers["authorization"] == f"Bearer {TOKEN}"
    assert sent.fields == {
        "app_id": "face-avatar",
        "file_url": f"data:image/png;base64,{base64.b64encode(picture(1)).decode()}",
        "batch": 2,
        "gender": "female",
        "seed": 40,
        "celery": False,
    }
    assert task.status == "SUCCESS"
    assert [(image.seed, image.face_similarity) for image in task.images] == [(40, 0.75), (41, None)]
    assert (task.stages, task.runtime_s) == ({"face": 0.5, "diffusion": 2.0}, 2.5)
    assert (task.error, task.error_data, task.progress) == ("", {}, None)
    assert task.envelope["input"]["gender"] == "female"
    assert [client.avatars.download(image) for image in task.images] == [picture(40), picture(41)]


def test_several_photos_go_out_together_and_a_list_of_one_as_one(
    client: FaceAvatarClient, fake: FakeService, tmp_path: Path
) -> None:
    photo = tmp_path / "me.png"
    photo.write_bytes(picture(1))
    client.avatars.create([PHOTO, photo])
    client.avatars.create([PHOTO])
    assert fake.seen[0].fields == {
        "app_id": "face-avatar",
        "file_urls": [PHOTO, f"data:image/png;base64,{base64.b64encode(picture(1)).decode()}"],
        "celery": False,
    }
    assert fake.seen[1].fields["file_url"] == PHOTO  # which a service without `file_urls` takes, too


def test_an_error_names_its_photo_as_people_count() -> None:
    assert str(ServiceError(422, "Face Consistent Error", {"message": "no face found", "photo": 1})).endswith(
        "no face found (photo 2)"
    )


def test_the_url_of_a_photo_goes_out_as_it_is(client: FaceAvatarClient, fake: FakeService) -> None:
    client.avatars.create(PHOTO)
    assert fake.seen[0].fields["file_url"] == PHOTO


def test_what_is_none_is_left_to_the_service(client: FaceAvatarClient, fake: FakeService) -> None:
    client.avatars.create(PHOTO, app_id=None, prompt=None, seed=0, remove_background=False)
    assert fake.seen[0].fields == {
        "app_id": "face-avatar",
        "file_url": PHOTO,
        "celery": False,
        "seed": 0,
        "remove_background": False,
    }


def test_every_field_that_the_service_takes_is_a_parameter() -> None:
    assert (
        AvatarRequest.model_fields.keys() - {"file_url", "file_urls", "celery"}
        <= AvatarParameters.__annotations__.keys()
    )


def test_a_photo_that_cannot_be_sent_is_named_before_anything_is(
    client: FaceAvatarClient, fake: FakeService, tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(bytes(MAX_PHOTO_BYTES + 1))
    for photo in (tmp_path / "absent.png", tmp_path, large):
        with pytest.raises(PhotoFileError, match=str(photo)):
            client.avatars.create(photo)
    assert fake.seen == []


def test_the_client_sends_files_as_large_as_the_service_takes() -> None:
    assert FetchSettings().max_bytes == MAX_PHOTO_BYTES


def test_the_apps_are_listed_with_what_this_client_knows_of_them(client: FaceAvatarClient) -> None:
    (app,) = client.apps.list()
    assert (app.app_id, app.title, app.licence) == ("face-avatar", "Avatar", "free")
    assert (app.native_sizes, app.defaults) == ([(256, 256)], {"width": 256})
    assert app.vocabulary == {"people": ("man", "woman")}


def test_a_photo_is_inspected_without_a_task(client: FaceAvatarClient, fake: FakeService) -> None:
    seen = client.faces.inspect(PHOTO)
    assert fake.seen[0].fields == {"file_url": PHOTO}
    assert (seen.accepted, seen.used, seen.width, seen.height) == (True, 0, 512, 400)
    client.faces.inspect(PHOTO, app_id="face-avatar")
    assert fake.seen[1].fields == {"file_url": PHOTO, "app_id": "face-avatar"}
    assert seen.faces == (Face((1, 2, 3, 4), 0.9, 12),)
    assert seen.warnings == (PhotoWarning("clipped", 0, "The file lost its end."),)
    fake.faults.append(lambda _: fake_service.Answer(200, envelope(output={"faces": 1})))
    with pytest.raises(UnexpectedAnswerError):
        client.faces.inspect(PHOTO)


def test_a_picture_is_verified(client: FaceAvatarClient, fake: FakeService) -> None:
    assert client.verify(PHOTO) == Verdict("genuine", ours=True, intact=True, message="Ours.")
    fake.faults.append(lambda _: fake_service.Answer(200, envelope(output={"verdict": 1})))
    with pytest.raises(UnexpectedAnswerError):
        client.verify(PHOTO)


def test_an_image_comes_with_its_receipt_and_its_attempts(client: FaceAvatarClient, fake: FakeService) -> None:
    task = client.avatars.create(PHOTO, batch=2, seed=4)
    assert [image.receipt for image in task.images] == [{"seed": 4}, {"seed": 5}]
    assert task.images[0].attempts == ({"seed": 4, "face_similarity": 0.75},)
    assert task.warnings == (PhotoWarning("clipped", 0, "The file lost its end."),)
    for name in ("receipts", "attempts", "warnings"):
        del fake.tasks[task.task_id]["output"][name]  # a service of before
    fake.looks = 0
    assert [(image.receipt, image.attempts) for image in client.avatars.get(task.task_id).images] == [({}, ())] * 2


def test_a_withheld_image_has_no_url(client: FaceAvatarClient, fake: FakeService) -> None:
    task = client.avatars.create(PHOTO, batch=2)
    output = fake.tasks[task.task_id]["output"]
    output["result"][0] = output["low_res_urls"][0] = None
    fake.looks = 0
    withheld, shown = client.avatars.get(task.task_id).images
    assert (withheld.url, withheld.thumbnail_url, withheld.seed) == (None, None, 7)
    with pytest.raises(WithheldError):
        client.avatars.download(withheld)
    assert shown.url is not None


# Tasks


def test_a_queued_task_is_told_at_once_and_waited_for(
    client: FaceAvatarClient, fake: FakeService, pauses: list[float]
) -> None:
    fake.looks, fake.streams = 3, False
    task = client.avatars.submit(PHOTO, seed=9)
    assert fake.seen[0].fields["celery"] is True
    assert (task.status, task.finished, task.images) == ("PENDING", False, ())
    told: list[Task] = []
    done = client.avatars.wait(task, progress=told.append)
    assert [seen.status for seen in told] == ["STARTED", "STARTED", "STARTED", "SUCCESS"]
    assert told[1].progress == TaskProgress(2, 12, 0, 1, 0, None, (2,))
    assert [image.seed for image in done.images] == [9]
    assert pauses == sorted(set(pauses))
    assert pauses[0] == 0.5


def test_a_status_of_a_later_service_counts_as_not_finished(client: FaceAvatarClient, fake: FakeService) -> None:
    task, fake.streams = client.avatars.submit(PHOTO), False
    dreaming = fake_service.Answer(200, envelope(task_id=task.task_id, status="DREAMING"))
    fake.faults.extend([lambda answer: answer(), lambda _: dreaming])
    assert client.avatars.wait(task).status == "SUCCESS"


def test_a_wait_ends_when_its_time_is_over(client: FaceAvatarClient, fake: FakeService, pauses: list[float]) -> None:
    task = client.avatars.submit(PHOTO)
    with pytest.raises(NotFinishedError, match=task.task_id):
        client.avatars.wait(task, timeout_s=0)
    assert pauses == []


def test_a_wait_outlasts_a_service_that_is_started_again(
    client: FaceAvatarClient, fake: FakeService, pauses: list[float]
) -> None:
    task = client.avatars.submit(PHOTO)
    fake.looks = 0
    fake.faults.extend([dropped_before] * 9)
    assert client.avatars.wait(task.task_id).status == "SUCCESS"
    assert sum(pauses) > 25  # a proxy of Serve that died is back within


def test_a_failed_task_is_read_like_any_other_and_raises_where_success_is_required(
    client: FaceAvatarClient, fake: FakeService
) -> None:
    task_id = client.avatars.submit(PHOTO).task_id
    failure = {"error": "Face Consistent Error", "error_data": {"message": "No face."}, "status": "FAILED"}
    fake.tasks[task_id] |= failure | {"output": {}}
    task = client.avatars.wait(task_id)
    assert (task.status, task.error, task.error_data) == ("FAILED", "Face Consistent Error", {"message": "No face."})
    with pytest.raises(ServiceError, match=r"^Face Consistent Error: No face\.$") as caught:
        task.require_success()
    assert (caught.value.status_code, caught.value.task_id) == (200, task_id)


def test_a_task_can_be_cancelled(client: FaceAvatarClient, fake: FakeService) -> None:
    task = client.avatars.submit(PHOTO)
    cancelled = client.avatars.cancel(task.task_id)
    assert (fake.seen[-1].method, fake.seen[-1].target) == ("DELETE", f"/api/v1/tasks/{task.task_id}")
    with pytest.raises(ServiceError, match="CANCELLED"):
        cancelled.require_success()


def test_the_id_of_a_task_cannot_name_another_route(client: FaceAvatarClient, fake: FakeService) -> None:
    with pytest.raises(ServiceError, match="Unknown Task"):
        client.avatars.get("x/../../apps?a=b")
    assert fake.seen[0].target == "/api/v1/tasks/x%2F..%2F..%2Fapps%3Fa%3Db"


# Events


def test_a_wait_is_told_by_events_and_never_asks(
    client: FaceAvatarClient, fake: FakeService, pauses: list[float]
) -> None:
    fake.looks = 3
    task = client.avatars.submit(PHOTO)
    told: list[Task] = []
    done = client.avatars.wait(task, progress=told.append)
    assert [seen.progress.image_steps for seen in told if seen.progress] == [(1,), (2,), (3,)]
    assert told[-1] == done
    assert [seen.target.rpartition("/")[2] for seen in fake.seen] == ["getImageToImage", "events"]
    assert fake.seen[1].headers["accept"] == "text/event-stream"
    assert pauses == []


def test_events_are_the_states_of_a_task_up_to_the_last(client: FaceAvatarClient, fake: FakeService) -> None:
    fake.looks = 2
    states = list(client.avatars.events(client.avatars.submit(PHOTO).task_id))
    assert [state.status for state in states] == ["STARTED", "STARTED", "SUCCESS"]
    assert [image.seed for image in states[-1].images] == [7]


def test_a_stream_that_breaks_off_is_taken_up_after_the_last_event(client: FaceAvatarClient, fake: FakeService) -> None:
    fake.looks = 3

    def cut_after_two(answer: Callable[[], fake_service.Answer]) -> fake_service.Answer:
        whole = answer()
        return replace(whole, sent=whole.body.index(b"id: 3") + 8)

    task = client.avatars.submit(PHOTO)
    fake.reads[task.task_id] = 1  # asked for in between, it stands where the second event said
    fake.faults.append(cut_after_two)
    told: list[Task] = []
    client.avatars.wait(task, progress=told.append)
    assert [seen.progress.step for seen in told if seen.progress] == [1, 2, 3]
    streams = [seen for seen in fake.seen if seen.target.endswith("/events")]
    assert [stream.headers.get("last-event-id") for stream in streams] == [None, "2"]
    assert told[-1].status == "SUCCESS"


def test_a_client_that_stops_listening_lets_go_of_the_connection(fake: FakeService, pauses: list[float]) -> None:
    fake.looks = 3
    with FaceAvatarClient(fake.url, TOKEN, sleep=pauses.append) as client:
        events = client.avatars.events(client.avatars.submit(PHOTO))
        assert next(iter(events)).progress == TaskProgress(1, 12, 0, 1, 0, None, (1,))
        events.close()  # type: ignore[attr-defined]
        assert client.avatars.wait(next(iter(fake.tasks))).status == "SUCCESS"


@pytest.mark.parametrize("data", [b"data: hello", b"data: [1]", b"data: {}", b"data: \xff"])
def test_an_event_that_is_no_task_is_unexpected(client: FaceAvatarClient, fake: FakeService, data: bytes) -> None:
    task = client.avatars.submit(PHOTO)
    fake.faults.append(lambda _: fake_service.Answer(200, data + b"\n\n", kind="text/event-stream"))
    with pytest.raises(UnexpectedAnswerError):
        client.avatars.wait(task)


def test_an_event_is_whole_however_it_is_cut_up() -> None:
    stream = b"retry: 5\r\n\r\n: here\n\nid: 7\nevent: progress\ndata: {\ndata:1}\n\nid: 8\ndata: rest"
    for size in (1, 3, len(stream)):
        reader, events = EventReader(), []
        for start in range(0, len(stream), size):
            events += reader.add(stream[start : start + size])
        assert events == [Event("7", "{\n1}")]
    with pytest.raises(UnexpectedAnswerError, match="more than"):
        EventReader().add(b"data: " + bytes(MAX_EVENT_BYTES))


# What fails and passes


def test_a_connection_dropped_after_the_work_gives_the_same_task_drawn_once(
    client: FaceAvatarClient, fake: FakeService
) -> None:
    fake.faults.append(dropped_after)
    task = client.avatars.create(PHOTO)
    first, second = fake.seen
    assert first == second
    assert list(fake.tasks) == [task.task_id]


def test_two_creates_are_two_tasks_even_where_all_else_is_the_same(client: FaceAvatarClient, fake: FakeService) -> None:
    assert client.avatars.create(PHOTO, seed=1).task_id != client.avatars.create(PHOTO, seed=1).task_id


CALLS: dict[str, Callable[[FaceAvatarClient, Task], object]] = {
    "create": lambda client, _: client.avatars.create(PHOTO),
    "submit": lambda client, _: client.avatars.submit(PHOTO),
    "get": lambda client, task: client.avatars.get(task.task_id),
    "cancel": lambda client, task: client.avatars.cancel(task.task_id),
    "download": lambda client, task: client.avatars.download(task.images[0]),
    "apps": lambda client, _: client.apps.list(),
    "verify": lambda client, _: client.verify(PHOTO),
    "inspect": lambda client, _: client.faces.inspect(PHOTO),
}
PASSING_FAULTS: dict[str, Fault] = {
    "dropped": dropped_before,
    "cut short": cut_short,
    "overloaded": refused(503, "Overloaded", Retry_After="3"),
    "rate limit": refused(429, "Rate Limit", Retry_After="3"),
    "502 of a proxy": by_proxy(502),
    "503 of a proxy": by_proxy(503),
    "504 of a proxy": by_proxy(504),
}


@pytest.mark.parametrize("fault", PASSING_FAULTS.values(), ids=PASSING_FAULTS.keys())
def test_what_passes_is_asked_for_again(
    client: FaceAvatarClient, fake: FakeService, pauses: list[float], fault: Fault
) -> None:
    task = client.avatars.create(PHOTO)
    for name, call in CALLS.items():
        fake.seen.clear()
        pauses.clear()
        fake.faults.extend([fault, fault])
        call(client, task)
        assert (len(fake.seen), len(pauses)) == (3, 2), name


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, "Unauthorized"),
        (404, "Unknown App"),
        (409, "Conflict"),
        (422, "Image URL Error"),
        (429, "Rate Limit"),  # without a time to come back at
        (500, "Internal Error"),
        (504, "Timeout"),  # the deadline is over, and would be again
    ],
)
def test_what_would_be_the_same_again_is_not_asked_for_again(
    client: FaceAvatarClient, fake: FakeService, status: int, error: str
) -> None:
    fake.faults.append(refused(status, error))
    with pytest.raises(ServiceError) as caught:
        client.avatars.create(PHOTO)
    assert (caught.value.status_code, caught.value.error) == (status, error)
    assert caught.value.error_data == {"message": f"{error} it is."}
    assert len(fake.seen) == 1


def test_after_the_last_repeat_the_last_answer_is_told(fake: FakeService, pauses: list[float]) -> None:
    fake.faults.extend([dropped_before, refused(503, "Overloaded"), refused(503, "Overloaded")])
    with (
        FaceAvatarClient(fake.url, TOKEN, retries=2, sleep=pauses.append) as client,
        pytest.raises(ServiceError, match="Overloaded"),
    ):
        client.avatars.create(PHOTO)
    assert len(fake.seen) == 3
    assert len(pauses) == 2


@pytest.mark.parametrize(("asked_s", "timeout_s"), [("50", 40), ("3600", 150)])
def test_nobody_waits_for_a_moment_after_the_time_is_over(
    fake: FakeService, pauses: list[float], asked_s: str, timeout_s: float
) -> None:
    fake.faults.append(refused(503, "Overloaded", Retry_After=asked_s))
    with (
        FaceAvatarClient(fake.url, TOKEN, timeout_s=timeout_s, sleep=pauses.append) as client,
        pytest.raises(ServiceError, match="Overloaded"),
    ):
        client.avatars.submit(PHOTO)
    assert pauses == []


def test_a_create_has_the_time_that_its_deadline_gives_the_service(fake: FakeService, pauses: list[float]) -> None:
    fake.faults.append(refused(503, "Overloaded", Retry_After="50"))
    with FaceAvatarClient(fake.url, TOKEN, timeout_s=40, sleep=pauses.append) as client:
        client.avatars.create(PHOTO, deadline_s=60)
    assert pauses == [50]


@pytest.mark.parametrize(
    ("outcome", "least_s", "most_s"),
    [
        (answering(503), 0.5, 1.0),  # the third try: 0.25 s doubled twice, with jitter
        (answering(503, retry_after="7"), 7, 7),
        (answering(503, retry_after="0"), 0.5, 1.0),
        (answering(503, retry_after="soon"), 0.5, 1.0),
        (answering(503, retry_after="-1"), 0.5, 1.0),
        (answering(503, retry_after="9" * 400), MAX_PAUSE_S, MAX_PAUSE_S),
        (answering(503, retry_after=formatdate(time.time() + 3600, usegmt=True)), MAX_PAUSE_S, MAX_PAUSE_S),
        (answering(503, retry_after=formatdate(0, usegmt=True)), 0.5, 1.0),
        (httpx.ConnectTimeout(""), 0.5, 1.0),
    ],
)
def test_the_pause_is_the_longer_of_the_own_and_the_asked_one(
    outcome: Answer | httpx.RequestError, least_s: float, most_s: float
) -> None:
    for _ in range(20):
        pause_s = repeat_pause_s(outcome, 2)
        assert pause_s is not None
        assert least_s <= pause_s <= most_s


def test_the_pauses_grow_up_to_a_limit() -> None:
    pauses_s = [repeat_pause_s(answering(502), repeats) or 0 for repeats in range(2000)]
    assert all(two_later > one for one, two_later in zip(pauses_s[:6], pauses_s[2:8], strict=True))
    assert max(pauses_s) <= MAX_PAUSE_S


# What fails for good


def test_a_refused_connection_says_where_nothing_listens(pauses: list[float]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with FaceAvatarClient(url, TOKEN, sleep=pauses.append) as client, pytest.raises(ConnectionFailedError) as caught:
        client.apps.list()
    assert not caught.value.reached
    assert url in str(caught.value)
    assert len(pauses) == 4


def test_a_connection_that_keeps_breaking_was_reached(client: FaceAvatarClient, fake: FakeService) -> None:
    fake.faults.extend([dropped_before] * 5)
    with pytest.raises(ConnectionFailedError) as caught:
        client.apps.list()
    assert caught.value.reached
    assert len(fake.seen) == 5


def test_an_answer_that_does_not_come_is_given_up(fake: FakeService) -> None:
    def silent(_answer: Callable[[], fake_service.Answer]) -> None:
        fake.ended.wait()

    fake.faults.append(silent)
    with FaceAvatarClient(fake.url, TOKEN, timeout_s=0.3) as client, pytest.raises(ConnectionFailedError):
        client.apps.list()


def test_an_answer_that_comes_byte_by_byte_for_ever_is_given_up(fake: FakeService) -> None:
    fake.faults.append(dripping)
    with (
        FaceAvatarClient(fake.url, TOKEN, timeout_s=1) as client,
        pytest.raises(ConnectionFailedError, match="takes too long"),
    ):
        client.apps.list()


def test_the_fields_that_were_wrong_are_told_one_a_line(client: FaceAvatarClient, fake: FakeService) -> None:
    fields = [{"field": "batch", "message": "too many"}, {"field": "seed", "message": "too low"}]
    data = {"message": "The request is not valid.", "fields": fields}
    body = envelope(error="Invalid Request", error_data=data, status="FAILED")
    fake.faults.append(lambda _: fake_service.Answer(422, body))
    with pytest.raises(ServiceError) as caught:
        client.avatars.create(PHOTO)
    assert str(caught.value).splitlines() == [
        "Invalid Request: The request is not valid.",
        "  batch: too many",
        "  seed: too low",
    ]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"message": "No such app.", "accepted": ["a", "b"]}, "E: No such app. Accepted: a, b."),
        ({"message": "A bug.", "request_id": "r7"}, "E: A bug. (request r7)"),
        ({"message": "Odd.", "fields": "none", "accepted": {"type": "string"}}, "E: Odd."),
        ({}, "E"),
    ],
)
def test_an_error_reads_as_one_line(data: dict[str, Any], said: str) -> None:
    assert str(ServiceError(422, "E", data)) == said


@pytest.mark.parametrize("status", [302, 404, 418, 599])
def test_an_error_that_is_not_the_services_own_is_told_as_such(
    client: FaceAvatarClient, fake: FakeService, status: int
) -> None:
    fake.faults.append(by_proxy(status))
    with pytest.raises(ServiceError, match=f"^HTTP {status}.*not the service's own"):
        client.apps.list()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[1]",
        b"{}",
        b"[" * 100_000,
        b'{"status": "SUCCESS", "error": "", "output": {}}',
        envelope(output=[]),
        envelope(output={"result": ["u"], "low_res_urls": ["u"], "seeds": [1, 2], "face_similarity": [None]}),
        envelope(output={"result": ["u"], "low_res_urls": ["u"], "seeds": ["../x"], "face_similarity": [None]}),
        envelope(time_required=None),
    ],
)
def test_an_answer_that_is_no_task_is_unexpected(client: FaceAvatarClient, fake: FakeService, body: bytes) -> None:
    fake.faults.append(lambda _: fake_service.Answer(200, body))
    with pytest.raises(UnexpectedAnswerError):
        client.avatars.create(PHOTO)


def test_an_answer_without_apps_is_unexpected(client: FaceAvatarClient, fake: FakeService) -> None:
    for output in ({}, [], {"apps": [{"app_id": 1}]}):
        fake.faults.append(lambda _, output=output: fake_service.Answer(200, envelope(output=output)))
        with pytest.raises(UnexpectedAnswerError):
            client.apps.list()


# Downloads


def test_a_download_does_not_carry_the_token(client: FaceAvatarClient, fake: FakeService) -> None:
    client.avatars.download(client.avatars.create(PHOTO).images[0])
    assert fake.seen[-1].target.startswith("/files/")
    assert "authorization" not in fake.seen[-1].headers


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_a_download_is_an_image_of_a_known_format(client: FaceAvatarClient, fake: FakeService, kind: str) -> None:
    fake.files["/image"] = picture(1, kind)
    assert client.avatars.download(f"{fake.url}/image") == picture(1, kind)


@pytest.mark.parametrize("data", [b"", b"<html>", b"GIF89a"])
def test_what_is_not_an_image_is_not_taken(client: FaceAvatarClient, fake: FakeService, data: bytes) -> None:
    fake.files["/image"] = data
    with pytest.raises(UnexpectedAnswerError, match="not a PNG"):
        client.avatars.download(f"{fake.url}/image")


def test_a_download_has_a_limit(client: FaceAvatarClient, fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.files["/image"] = picture(1)
    monkeypatch.setattr(requests, "MAX_IMAGE_BYTES", len(picture(1)))
    client.avatars.download(f"{fake.url}/image")
    monkeypatch.setattr(requests, "MAX_IMAGE_BYTES", len(picture(1)) - 1)
    with pytest.raises(UnexpectedAnswerError, match="more than"):
        client.avatars.download(f"{fake.url}/image")


def test_an_outdated_url_is_told_as_the_service_says_it(client: FaceAvatarClient, fake: FakeService) -> None:
    fake.faults.append(refused(403, "Forbidden"))
    with pytest.raises(ServiceError, match="Forbidden: Forbidden it is"):
        client.avatars.download(f"{fake.url}/files/x")


@pytest.mark.parametrize("url", ["", "/files/x", "file:///etc/passwd", "data:image/png;base64,aaaa", "http://"])
def test_only_http_is_downloaded(client: FaceAvatarClient, url: str) -> None:
    with pytest.raises(UnexpectedAnswerError):
        client.avatars.download(url)


# Settings and proxies


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8000",
        "ftp://h",
        "http://",
        "http://h:99999",
        "http://h\n",
        "http://u:p@h",
        "http://h/?a=b",
        "http://h/#a",
        f"http://{'a' * 64}.org",
    ],
)
def test_a_url_that_is_no_service_is_refused_at_once(url: str) -> None:
    with pytest.raises(ClientSettingsError, match="URL"):
        FaceAvatarClient(url, TOKEN)


@pytest.mark.parametrize("token", ["", "two\nlines", "ünïcode"])
def test_a_token_that_no_header_can_carry_is_refused_at_once(token: str) -> None:
    with pytest.raises(ClientSettingsError, match="token"):
        FaceAvatarClient("http://h", token)


def test_a_service_may_live_under_a_path(fake: FakeService) -> None:
    with FaceAvatarClient(f"{fake.url}/avatars/", TOKEN) as client, pytest.raises(ClientError):
        client.apps.list()
    assert fake.seen[0].target == "/avatars/api/v1/apps"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_proxy_of_the_environment_is_not_for_this_machine(
    fake: FakeService, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"socks5://127.0.0.1:{free_port()}")
    with FaceAvatarClient(fake.url.replace("127.0.0.1", host), TOKEN) as client:
        assert client.apps.list()


def test_a_service_elsewhere_is_reached_through_the_proxy_of_the_environment(
    fake: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", fake.url)
    with FaceAvatarClient("http://avatars.example", TOKEN) as client:
        assert client.apps.list()
    assert fake.seen[0].target == "http://avatars.example/api/v1/apps"


def test_a_proxy_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "gopher://proxy.example")
    with FaceAvatarClient("http://avatars.example", TOKEN) as client, pytest.raises(ClientSettingsError, match="proxy"):
        client.apps.list()


def test_the_body_is_json_whatever_the_prompt_holds(client: FaceAvatarClient, fake: FakeService) -> None:
    client.avatars.create(PHOTO, prompt='"肖像"\n\0')
    assert fake.seen[0].fields["prompt"] == '"肖像"\n\0'
    assert fake.seen[0].headers["content-type"] == "application/json"

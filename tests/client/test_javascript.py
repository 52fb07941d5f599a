"""The client for browsers and Node against a small true service that fails when it is told to."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_service import (
    TOKEN,
    Answer,
    FakeService,
    Fault,
    by_proxy,
    cut_short,
    dripping,
    dropped_after,
    dropped_before,
    refused,
    serving,
)
from tests.support.node import IMPORT, needs_node, run_node

pytestmark = needs_node

Run = Callable[[str], Any]
PHOTO = '"https://example.org/me.jpg"'
BEGIN = """
const client = new FaceAvatarClient({ baseUrl: process.env.URL_OF_SERVICE, token: process.env.TOKEN });
const isOurs = (error) => error instanceof FaceAvatarError;
const told = (error) => ({ ...error, name: error.name, message: error.message, ours: isOurs(error) });
const failed = (call) => call.then(() => null, told);
const tell = (value) => console.log(JSON.stringify(value));
"""


@pytest.fixture
def service() -> Iterator[FakeService]:
    with serving() as running:
        yield running


@pytest.fixture
def run(service: FakeService, tmp_path: Path) -> Run:
    return lambda program: run_node(tmp_path, IMPORT + BEGIN + program, URL_OF_SERVICE=service.url, TOKEN=TOKEN)


@pytest.mark.parametrize(
    "fault", [dropped_before, dropped_after, cut_short, by_proxy(502), by_proxy(504), refused(503, "Overloaded")]
)
def test_what_may_pass_is_sent_again_as_the_same_request(service: FakeService, run: Run, fault: Fault) -> None:
    service.faults.append(fault)
    task = run(f"tell(await client.avatars.create([{PHOTO}], {{ batch: 2, style: null }}));")
    assert (task["status"], task["output"]["seeds"]) == ("SUCCESS", [7, 8])
    assert len(service.seen) == 2
    assert len(service.tasks) == 1
    first, second = service.seen
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.fields == second.fields
    assert first.fields == {"app_id": "face-avatar", "batch": 2, "celery": False, "file_url": PHOTO.strip('"')}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (refused(422, "Face Consistent Error"), {"status": 422, "retryAfter": None}),
        (refused(504, "Timeout"), {"status": 504}),
        (refused(429, "Rate Limit"), {"status": 429}),  # without a time to come back
        (refused(429, "Rate Limit", Retry_After="3600"), {"status": 429, "retryAfter": 3600}),  # longer than it waits
        (refused(401, "Unauthorized", X_Request_Id="an-id"), {"status": 401, "requestId": "an-id"}),
        (by_proxy(500), {"name": "HTTP 500"}),
        (lambda _: Answer(200, b"<html>a portal</html>"), {"name": "Unexpected Answer", "status": 200}),
    ],
)
def test_what_will_not_pass_is_an_error_at_once(
    service: FakeService, run: Run, fault: Fault, expected: dict[str, Any]
) -> None:
    service.faults.append(fault)
    error = run(f"tell(await failed(client.avatars.submit({PHOTO})));")
    assert error["ours"]
    assert error.items() >= expected.items()
    assert len(service.seen) == 1


def test_repeats_end_and_say_what_was_wrong_last(service: FakeService, run: Run) -> None:
    service.faults += [refused(503, "Overloaded", Retry_After="0")] * 9
    error = run("tell(await failed(client.apps.list({ retries: 2 })));")
    assert (error["name"], error["status"], error["retryAfter"]) == ("Overloaded", 503, 0)
    assert error["message"] == "Overloaded: Overloaded it is."
    assert len(service.seen) == 3


@pytest.mark.parametrize("streams", [True, False])
def test_a_task_is_followed_to_its_end_by_events_and_where_there_are_none_by_asking(
    service: FakeService, run: Run, streams: bool
) -> None:
    service.streams, service.looks = streams, 3
    states = run(
        f"""
        const states = [];
        for await (const state of client.avatars.events(await client.avatars.submit({PHOTO}))) states.push(state);
        tell(states.map(({{ status, output }}) => [status, output.progress?.step ?? null]));
        """
    )
    assert states == [["STARTED", 1], ["STARTED", 2], ["STARTED", 3], ["SUCCESS", None]]
    paths = [seen.target.rpartition("/")[2] for seen in service.seen[1:]]
    assert paths.count("events") == 1
    assert len(paths) == (1 if streams else 5)


def broken_off(answer: Callable[[], Answer]) -> Answer:
    """The first two events, then a part of the third."""
    whole = answer()
    return Answer(200, whole.body, kind=whole.kind, sent=whole.body.index(b"id: 3") + 9)


def test_events_that_break_off_are_taken_up_after_the_last_one(service: FakeService, run: Run) -> None:
    service.looks = 4
    task = run(f"tell(await client.avatars.submit({PHOTO}));")
    service.faults += [broken_off, by_proxy(502)]  # the stream, then the question that follows
    steps = run(
        f"""
        const steps = [];
        const progress = (state) => steps.push(state.output.progress?.step);
        await client.avatars.wait("{task["task_id"]}", {{ progress }});
        tell(steps);
        """
    )
    assert steps[:2] == [1, 2]
    assert sorted(set(steps[:-1])) == steps[:-1]  # each state once, in order
    streams = [seen for seen in service.seen if seen.target.endswith("/events")]
    assert [seen.headers.get("last-event-id") for seen in streams] == [None, "2"]


def test_a_call_ends_when_it_is_aborted_or_out_of_time(service: FakeService, run: Run) -> None:
    service.faults += [dripping, dripping]
    told = run(
        """
        const control = new AbortController();
        setTimeout(() => control.abort(new Error("enough")), 50);
        const aborted = await failed(client.apps.list({ signal: control.signal }));
        const late = await failed(client.apps.list({ timeoutMs: 50 }));
        const never = await failed(client.apps.list({ signal: control.signal }));
        tell([aborted.message, late.name, late.status, never.message]);
        """
    )
    assert told == ["enough", "Unreachable", 0, "enough"]
    assert len(service.seen) <= 2  # neither is sent again; on a busy machine one may end before it is sent


def test_waiting_ends_when_it_is_aborted_or_out_of_time(service: FakeService, run: Run) -> None:
    service.streams, service.looks = False, 10**6
    told = run(
        f"""
        const task = await client.avatars.submit({PHOTO});
        const late = await failed(client.avatars.wait(task, {{ timeoutMs: 300 }}));
        const control = new AbortController();
        const progress = () => control.abort(new Error("seen enough"));
        const aborted = await failed(client.avatars.wait(task, {{ signal: control.signal, progress }}));
        tell([late.name, late.taskId === task.task_id, aborted.message]);
        """
    )
    assert told == ["Not Finished", True, "seen enough"]


def test_photos_that_are_files_go_beside_urls_as_data_urls(service: FakeService, run: Run) -> None:
    run(
        f"""
        const file = new Blob([new Uint8Array(70_000).fill(255)], {{ type: "image/png" }});
        await client.avatars.create([{PHOTO}, file]);
        """
    )
    first, second = service.seen[-1].fields["file_urls"]
    assert first == PHOTO.strip('"')
    assert second.startswith("data:image/png;base64,////")
    assert len(second) == len("data:image/png;base64,") + 4 * -(-70_000 // 3)


def test_pictures_are_fetched_without_the_token_and_one_that_was_withheld_is_an_error(
    service: FakeService, run: Run
) -> None:
    told = run(
        f"""
        const {{ output }} = await client.avatars.create({PHOTO});
        const picture = await client.avatars.download(output.result[0]);
        tell([picture.size, (await failed(client.avatars.download(null))).name]);
        """
    )
    (picture,) = service.files.values()
    assert told == [len(picture), "Withheld"]
    assert "authorization" not in service.seen[-1].headers


def test_an_address_or_a_token_that_cannot_be_used_is_a_mistake_of_the_program(run: Run) -> None:
    program = """
        const options = [{ baseUrl: "ftp://here" }, { baseUrl: "http://me:pass@here" }, { baseUrl: "http://here/?a" },
                         { baseUrl: "here" }, {}, { baseUrl: "http://here", token: "two\\nlines" }];
        tell(options.map((each) => {
            try { new FaceAvatarClient(each); } catch (error) { return error instanceof TypeError; }
        }));
        """
    assert run(program) == [True] * 6

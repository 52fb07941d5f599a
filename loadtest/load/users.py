"""The users of a load test: each kind sends its own requests, and checks every answer.

A 503 or 429 with Retry-After is an answer, not a failure: the user waits as long as it was told.
"""

import functools
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from locust import HttpUser, between, task
from requests import Response, Timeout

from loadtest.load import checks
from loadtest.load.answers import Group
from loadtest.load.checks import WrongAnswerError
from serve_app.cli.options import read_token
from serve_app.client import Task, data_url
from serve_app.photos.sample import sample_photo

CREATE = "/getImageToImage"
FIRST_PAUSE_S, PAUSE_GROWTH, MAX_PAUSE_S = 0.2, 1.5, 2.0  # between two polls of a queued task
BAD_FIELDS: list[tuple[dict[str, Any], int, str]] = [
    ({"batch": 99}, 422, "Invalid Request"),
    ({"unknown": 1}, 422, "Invalid Request"),
    ({"app_id": "nobody"}, 404, "Unknown App"),
    ({"file_url": "ftp://example.org/me.jpg"}, 422, "Image URL Error"),
    ({"file_url": "data:image/png;base64,bm90IGEgcGljdHVyZQ=="}, 422, "Image URL Error"),
    ({"file_url": "ftp://example.org/me.jpg", "celery": True}, 422, "Image URL Error"),
]

T = TypeVar("T")
Fields = dict[str, Any]


class AvatarUser(HttpUser):
    """A user that requests avatars, downloads one, and starts again. The first request of each user is a bad one."""

    abstract = True
    wait_time = between(0.1, 1.0)
    group: ClassVar[Group]
    mix: ClassVar[list[tuple[Callable[[Any], None], int]]]  # actions and their weights
    numbers: ClassVar[Iterator[int]] = itertools.count()

    def on_start(self) -> None:
        """Locust calls it once for each user: reads the token, seeds the random choices, and sends a bad request.

        Raises: ClientSettingsError where there is no token.
        """
        options = self.environment.parsed_options
        self.name = f"{options.seed if options else 0} {next(self.numbers)}"
        self.turns = itertools.count()
        self.random = random.Random(self.name)
        token_file = os.environ.get("FACE_AVATAR_TOKEN_FILE")
        token = read_token(os.environ.get("FACE_AVATAR_TOKEN"), Path(token_file) if token_file else None)
        self.client.headers["Authorization"] = f"Bearer {token}"
        self.body: Fields = {"app_id": "face-avatar", "file_url": data_url(sample_photo())}
        self.bad_request()

    @task
    def next_request(self) -> None:
        """One action of `mix` by weight. Its random choices depend on the seed, the user and the turn alone."""
        # New for every turn: earlier answers of the service must not change its later requests.
        self.random.seed(f"{self.name} {next(self.turns)}")
        requests, weights = zip(*self.mix, strict=True)
        self.random.choices(requests, weights)[0](self)

    def bad_request(self) -> None:
        """A valid body with one of `BAD_FIELDS`, which has to be answered with the error named there."""
        fields, status, name = self.random.choice(BAD_FIELDS)
        check = functools.partial(checks.error, status=status, name=name)
        self.send("bad request", "POST", CREATE, check, group="bad", json=self.body | fields)

    def send(
        self,
        kind: str,
        method: str,
        path: str,
        check: Callable[[Response], T],
        facts: Callable[[T], Fields] = lambda _: {},
        group: Group | None = None,
        **options: Any,
    ) -> T | None:
        """Sends one request; returns the result of its check, or None where it was refused or wrong.

        `facts`: what a right answer adds to its record.
        """
        record: Fields = {"group": group or self.group}
        with self.client.request(method, path, name=kind, catch_response=True, **options) as answer:
            answer.request_meta["context"] = record
            if (wait_s := checks.refusal_s(answer)) is not None:
                record["verdict"], found = "refused", None
            else:
                try:
                    found = check(answer)
                except WrongAnswerError as wrong:
                    answer.failure(answer.error or wrong)
                    return None
                record |= facts(found)
            answer.success()
        time.sleep(wait_s or 0)
        return found

    def look_at_one(self, drawn: Task, fields: Fields) -> None:
        """Download a file; its URL needs no token and may be on another host."""
        url, asked = self.random.choice(drawn.images).url or "", drawn.envelope["input"] | fields
        check = functools.partial(checks.image, size=(asked["width"], asked["height"]))
        self.send("result", "GET", url, check, headers={"Authorization": None})


class WaitingUser(AvatarUser):
    """Waits synchronously for its avatars: `celery` is false."""

    weight = 4
    group = "sync"

    def one_avatar(self) -> None:
        """One image with 6, 12 or 20 steps."""
        self.create("one avatar", num_inference_steps=self.random.choice([6, 12, 20]))

    def a_batch(self) -> None:
        """Two to four images in one request."""
        self.create("batch", batch=self.random.randint(2, 4))

    def cut_out(self) -> None:
        """One image, cut out or on a plain colour, 256, 512 or 768 pixels wide."""
        background: Fields = self.random.choice([{"remove_background": True}, {"bg_color": "#3366ff"}])
        self.create("cut-out", width=self.random.choice([256, 512, 768]), **background)

    def create(self, kind: str, **fields: Any) -> None:
        """Waits for the avatars of one request, whose `fields` override the default body, and downloads one of them."""
        check = functools.partial(checks.made, batch=fields.get("batch", 1))
        if drawn := self.send(kind, "POST", CREATE, check, of_drawn, json=self.body | fields):
            self.look_at_one(drawn, fields)

    mix: ClassVar = [(one_avatar, 6), (a_batch, 2), (cut_out, 2), (AvatarUser.bad_request, 1)]


class TaskUser(AvatarUser):
    """Queues its requests."""

    abstract = True

    def enqueue(self, fields: Fields, headers: dict[str, str] | None = None) -> Task | None:
        """The accepted task; None where it was refused or wrong. `fields` override the default body."""
        body = self.body | fields | {"celery": True}
        return self.send("enqueue", "POST", CREATE, checks.queued, json=body, headers=headers)

    def report_end(self, seen: Task, fields: Fields, accepted: float, queue_wait_s: float | None) -> None:
        """Records how a task ended as an event of its own, and downloads one of its images if it succeeded.

        Its latency counts from `accepted` (unix seconds); `queue_wait_s` is None where it was not observed.
        """
        problem: WrongAnswerError | None = None
        try:
            checks.with_images(seen, fields.get("batch", 1))
        except WrongAnswerError as wrong:
            problem = wrong
        self.environment.events.request.fire(
            request_type="TASK",
            name="task, to its end",
            start_time=accepted,
            response_time=(time.time() - accepted) * 1000,
            response_length=0,
            context={"group": self.group, "queue_wait_s": queue_wait_s} | of_drawn(seen),
            exception=problem,
        )
        if problem is None:
            self.look_at_one(seen, fields)


class QueueingUser(TaskUser):
    """Polls until its avatars are done."""

    weight = 3
    group = "queued"

    def one_avatar(self) -> None:
        """One image with 6, 12 or 20 steps."""
        self.follow({"num_inference_steps": self.random.choice([6, 12, 20])})

    def a_batch(self) -> None:
        """Two to four images in one task."""
        self.follow({"batch": self.random.randint(2, 4)})

    def a_repeat(self) -> None:
        """The same request twice is one task; a different request with the same key is a conflict."""
        key = {"Idempotency-Key": str(UUID(int=self.random.getrandbits(128)))}
        if first := self.enqueue({}, key):
            check = functools.partial(checks.known, task_id=first.task_id)
            self.send("repeat", "POST", CREATE, check, json=self.body | {"celery": True}, headers=key)
            conflict = functools.partial(checks.error, status=409, name="Conflict")
            other = self.body | {"celery": True, "batch": 2}
            self.send("bad request", "POST", CREATE, conflict, group="bad", json=other, headers=key)
            self.wait_for(first, {})

    def follow(self, fields: Fields) -> None:
        """Queues a request and polls it to its end; one that is refused is not sent again."""
        if task := self.enqueue(fields):
            self.wait_for(task, fields)

    def wait_for(self, queued: Task, fields: Fields) -> None:
        """Poll a task until it ends; its end is recorded as a separate event.

        Its wait in the queue is known to a pause: until it was first seen at work, less what it had worked by then.
        """
        accepted, queue_wait_s = time.time(), None
        for pause_s in pauses_s():
            time.sleep(pause_s)
            if (seen := self.look(queued.task_id)) is None:
                continue
            if queue_wait_s is None and seen.status != "PENDING":
                queue_wait_s = max(0.0, time.time() - accepted - seen.runtime_s)
            if seen.finished:
                self.report_end(seen, fields, accepted, queue_wait_s)
                return

    def look(self, task_id: str) -> Task | None:
        """The task by one of the two routes that tell its status, chosen at random; None where refused or wrong."""
        check = functools.partial(checks.known, task_id=task_id)
        if self.random.random() < 0.5:
            return self.send("status", "GET", f"/api/v1/tasks/{task_id}", check)
        return self.send("status, getImage", "POST", "/getImage", check, json={"id": task_id})

    mix: ClassVar = [(one_avatar, 5), (a_batch, 2), (a_repeat, 2), (AvatarUser.bad_request, 1)]


class FollowingUser(TaskUser):
    """Follows its avatars by server-sent events."""

    weight = 2
    group = "events"

    def one_avatar(self) -> None:
        """One image with 6, 12 or 20 steps."""
        self.listen({"num_inference_steps": self.random.choice([6, 12, 20])})

    def a_batch(self) -> None:
        """Two to four images in one task."""
        self.listen({"batch": self.random.randint(2, 4)})

    def listen(self, fields: Fields) -> None:
        """Queues a request and reads its events to the end of the task.

        A stream that is refused or wrong, or ends before the task does, is opened again after a pause.
        """
        if (queued := self.enqueue(fields)) is None:
            return
        accepted, path = time.time(), f"/api/v1/tasks/{queued.task_id}/events"
        check = functools.partial(checks.last_event, task_id=queued.task_id)
        for pause_s in pauses_s():  # a stream may break or be refused
            seen = self.send("events", "GET", path, check, stream=True)
            if seen is not None and seen.finished:
                self.report_end(seen, fields, accepted, None)
                return
            time.sleep(pause_s)

    mix: ClassVar = [(one_avatar, 5), (a_batch, 2)]


class CancellingUser(TaskUser):
    """Cancels queued tasks, or disconnects before the answer arrives."""

    weight = 1
    group = "cancelled"

    def take_back(self) -> None:
        """Cancels a task of two images within two seconds of its acceptance: it may wait, run, or be done by then."""
        if task := self.enqueue({"batch": 2}):
            time.sleep(self.random.uniform(0, 2))
            check = functools.partial(checks.over, task_id=task.task_id)
            self.send("cancel", "DELETE", f"/api/v1/tasks/{task.task_id}", check)

    def leave(self) -> None:
        """No answer is the expected outcome; one that arrived in time is checked."""
        patience_s = self.random.uniform(0.2, 1.0)
        with self.client.post(
            CREATE, json=self.body | {"batch": 4}, name="left", catch_response=True, timeout=patience_s
        ) as answer:
            answer.request_meta["context"] = {"group": self.group}
            if isinstance(answer.error, Timeout):
                answer.request_meta["context"]["status"] = None
            elif checks.refusal_s(answer) is not None:
                answer.request_meta["context"]["verdict"] = "refused"
            else:
                try:
                    checks.made(answer, batch=4)
                except WrongAnswerError as wrong:
                    answer.failure(answer.error or wrong)
                    return
            answer.success()

    mix: ClassVar = [(take_back, 2), (leave, 1)]


class BadUser(AvatarUser):
    """Sends invalid requests."""

    weight = 1
    group = "bad"

    def unknown(self) -> None:
        """A path or a task that does not exist: 404."""
        path, name = self.random.choice([("/nowhere", "Not Found"), ("/api/v1/tasks/none", "Unknown Task")])
        self.send("bad request", "GET", path, functools.partial(checks.error, status=404, name=name))

    def stranger(self) -> None:
        """A valid request with a token that was never made: 401."""
        check = functools.partial(checks.error, status=401, name="Unauthorized")
        self.send("bad request", "POST", CREATE, check, json=self.body, headers={"Authorization": "Bearer of nothing"})

    def no_json(self) -> None:
        """A body that breaks off in the middle of its JSON: 422."""
        check = functools.partial(checks.error, status=422, name="Invalid Request")
        headers = {"Content-Type": "application/json"}
        self.send("bad request", "POST", CREATE, check, data=b'{"app_id": ', headers=headers)

    mix: ClassVar = [(AvatarUser.bad_request, 3), (unknown, 1), (stranger, 1), (no_json, 1)]


def pauses_s() -> Iterator[float]:
    """Endless, growing."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(pause_s * PAUSE_GROWTH, MAX_PAUSE_S)


def of_drawn(drawn: Task) -> Fields:
    """What a task adds to the record of an answer: its number of images, and seconds by stage."""
    return {"images": len(drawn.images), "stages": drawn.stages}

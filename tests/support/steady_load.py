"""Clients that ask all the time, whatever happens to the service meanwhile."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import httpx

ANSWER_TIMEOUT_S = 240


class Service(Protocol):
    """The service as such a client sees it."""

    def post(self, **fields: Any) -> httpx.Response:
        """Ask for avatars."""

    def task(self, task_id: str) -> dict[str, Any]:
        """The envelope of a queued task."""

    def attempts(self, task_id: str) -> int:
        """How often it was begun."""


class SteadyLoad:
    """Steady requests, two clients' synchronous and one's queued, until the block ends. No request is repeated.

    Each client waits for so long after an answer before it asks again.
    """

    def __init__(self, service: Service, pause_s: float = 0, queued_pause_s: float = 0.5, **fields: Any) -> None:
        self._service = service
        self._pause_s = {False: pause_s, True: queued_pause_s}
        self._fields = {"batch": 2} | fields
        self._stop = threading.Event()
        self.answers: list[httpx.Response] = []
        self.errors: list[BaseException] = []

    @contextmanager
    def running(self) -> Iterator["SteadyLoad"]:
        threads = [threading.Thread(target=self._send, args=(queued,)) for queued in (False, False, True)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _send(self, queued: bool) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append(self._service.post(celery=queued, **self._fields))
            except httpx.HTTPError as error:
                self.errors.append(error)
            self._stop.wait(self._pause_s[queued])

    def wait_for_more(self, number: int, poll: Callable[..., Any]) -> None:
        """Until so many more were answered."""
        enough = len(self.answers) + number
        poll(lambda: len(self.answers) >= enough or self.errors, ANSWER_TIMEOUT_S)

    def check(self, poll: Callable[..., Any], *, broker_stays: bool = True) -> None:
        """Nothing failed, and where the broker stays nothing was begun twice, and nobody told to come again."""
        assert not self.errors
        accepted = (200, 202) if broker_stays else (200, 202, 503)
        assert [answer.text for answer in self.answers if answer.status_code not in accepted] == []
        assert all("Retry-After" in answer.headers for answer in self.answers if answer.status_code == 503)
        tasks = [answer.json()["task_id"] for answer in self.answers if answer.status_code == 202]
        assert tasks
        for task_id in tasks:
            poll(lambda task_id=task_id: self._service.task(task_id)["status"] == "SUCCESS", ANSWER_TIMEOUT_S)
            assert self._service.attempts(task_id) <= (1 if broker_stays else 2)

"""The locustfile of a load test: users of every kind, their number over time given by a shape.

    locust -f loadtest/load/locustfile.py --headless --host http://127.0.0.1:8000 --users 4 --run-time 60s --shape spike

FACE_AVATAR_TOKEN holds the token, or FACE_AVATAR_TOKEN_FILE names its file (default: ~/.face-avatar/token).
"""

import time
from pathlib import Path
from typing import Any

import gevent
from locust import HttpUser, LoadTestShape, events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from requests import Response

from loadtest.load.answers import Answer, Log, UserCount
from loadtest.load.shapes import NAMES, users_at
from loadtest.load.users import BadUser, CancellingUser, FollowingUser, QueueingUser, WaitingUser

# Locust uses the user classes that it finds in this module.
__all__ = ["BadUser", "CancellingUser", "FollowingUser", "QueueingUser", "WaitingUser"]

BUG_EXIT_CODE = 2
COUNT_EVERY_S = 1.0


class Shape(LoadTestShape):
    """The number of users from the options, constant or by one of the shapes."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """(users, spawn rate a second); None at the end."""
        assert self.runner is not None  # a shape is asked by a runner
        options: Any = self.runner.environment.parsed_options
        most, passed_s = options.num_users or 1, self.get_run_time()
        if options.run_time and passed_s >= options.run_time:
            return None
        part = passed_s / options.run_time if options.run_time else 0.0
        return users_at(options.shape, part, most), max(options.spawn_rate or 1, most)


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """The options of this locustfile, beside locust's own."""
    parser.add_argument("--record", default="", help="File for every answer, one JSON object a line")
    parser.add_argument("--counts", default="", help="File for how many users there are, one JSON object a second")
    parser.add_argument("--shape", choices=NAMES, default="steady", help="How many users at which time")
    parser.add_argument("--seed", type=int, default=0, help="The same seed gives every user the same requests")


@events.init.add_listener
def record_answers(environment: Environment, **_: Any) -> None:
    """With `--record`, appends each answer to that file as it arrives."""
    options = environment.parsed_options
    if not (options and options.record):
        return
    log = Log(Path(options.record))
    environment.events.request.add_listener(lambda **event: log.add(answer_of(**event)))
    environment.events.quit.add_listener(lambda **_: log.close())


@events.test_start.add_listener
def count_users(environment: Environment, **_: Any) -> None:
    """With `--counts`, appends the number of users to that file every `COUNT_EVERY_S`, until locust ends."""
    options = environment.parsed_options
    if options and options.counts:
        gevent.spawn(_count, environment, Log(Path(options.counts)))


def _count(environment: Environment, log: Log) -> None:
    while environment.runner is not None:
        log.add(UserCount(at=time.time(), users=environment.runner.user_count))
        gevent.sleep(COUNT_EVERY_S)


def answer_of(
    name: str,
    start_time: float,
    response_time: float,
    context: dict[str, Any],
    exception: Exception | None,
    response: Response | None = None,
    **_: Any,
) -> Answer:
    """An event of locust's as an answer; `response_time` is in milliseconds."""
    latency_s = response_time / 1000
    own = {
        "kind": name,
        "ended": start_time + latency_s,
        "latency_s": latency_s,
        "status": None if response is None else response.status_code,
        "verdict": "wrong" if exception else "right",
        "problem": str(exception or ""),
    }
    return Answer(**own | context)


@events.user_error.add_listener
def tell_of_a_bug(user_instance: HttpUser, **_: Any) -> None:
    """An exception in a user is a bug in the load test: its figures must not be taken for the service's."""
    user_instance.environment.process_exit_code = BUG_EXIT_CODE


@events.quitting.add_listener
def fail_on_errors(environment: Environment, **_: Any) -> None:
    """Sets the exit code if any answer was wrong."""
    stats = environment.stats.total
    if environment.process_exit_code is None and (stats.num_failures or not stats.num_requests):
        environment.process_exit_code = 1

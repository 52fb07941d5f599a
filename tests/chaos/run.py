"""Kills the processes of a service, one after another, while it works, and checks that nothing is lost by it.

    python -m tests.chaos --tasks 1000 --kills 50 --minutes 40 --seed 7 --json report.json

Starts a service of its own, with a Ray and a data directory of its own, and kills nothing else. Queued tasks come
steadily, synchronous requests among them; kills are spread evenly over what is done. Exits with 1 where a bar is
missed.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import redis
import rich
from ray.exceptions import RayError

from serve_app.cli.signals import end_on_signals
from serve_app.client import ClientError, FaceAvatarClient
from serve_app.launcher import CONFIG, ServiceOptions, free_port, run_service
from serve_app.tasks.models import UNFINISHED
from tests.chaos.ledger import Accepted, Kill, Ledger, Order, Plan, kill_order, orders, without_signatures
from tests.chaos.report import Report, examined
from tests.chaos.service import CALL_S, KEYS, Service, photo

CLIENTS = 6  # threads
UNFINISHED_TASKS = 24  # at most: they keep every stage busy, and hold up nothing for long
PROBE_S = 0.2
DRAIN_S = 300  # after the last task was sent
AWAY_S = {"valkey": 1, "keeper": 15, "controller": 15}  # so long nobody may take a dead worker's tasks, or its place


class Clients:
    """Threads that send orders one after another and look for their ends."""

    def __init__(self, service: Service, ledger: Ledger, plan: Plan, ended: threading.Event) -> None:
        self._service = service
        self._ledger = ledger
        self._orders = iter(orders(plan))
        self._closes = time.monotonic() + plan.minutes * 60
        self._next = threading.Lock()
        self._room = threading.Semaphore(UNFINISHED_TASKS)
        self._ended = ended

    def send(self) -> None:
        """Orders until none is left, or the time is over."""
        with self._service.client() as client:
            while (order := self._take()) is not None:
                if order.synchronous:
                    self._make(client, order)
                else:
                    self._queue(client, order)

    def look(self) -> None:
        """The final envelope of every accepted task, until the end."""
        with self._service.client() as client:
            while not self._ended.wait(PROBE_S):
                for task_id in self._ledger.over - self._ledger.final.keys():
                    with contextlib.suppress(ClientError):  # the next look may be luckier
                        self._ledger.final[task_id] = without_signatures(client.avatars.get(task_id).envelope)

    def make_room(self) -> None:
        """For a new task where one is over, until the end."""
        while not self._ended.wait(PROBE_S):
            for task_id in self._over():
                self._ledger.over.add(task_id)
                self._room.release()

    def _take(self) -> Order | None:
        with self._next:
            closed = self._ended.is_set() or time.monotonic() >= self._closes
            return None if closed else next(self._orders, None)

    def _make(self, client: FaceAvatarClient, order: Order) -> None:
        self._ledger.asked.append(order.name)
        try:
            client.avatars.create(photo(order.faceless), **order.parameters(order.name)).require_success()
        except ClientError as error:
            self._ledger.refused[order.name] = str(error)

    def _queue(self, client: FaceAvatarClient, order: Order) -> None:
        """Until it is accepted, under a new name each time: only what was accepted may not be done twice."""
        self._room.acquire()
        for attempt in itertools.count():
            try:
                task_id = self._submit(client, order, f"{order.name}.{attempt}")
                break
            except (ClientError, httpx.HTTPError):
                self._ledger.repeated.append(order.name)
                if self._ended.wait(1):
                    return
        if order.cancelled:
            with contextlib.suppress(ClientError):
                client.avatars.cancel(task_id)
        self._ledger.accepted.append(Accepted(order, task_id))

    def _submit(self, client: FaceAvatarClient, order: Order, name: str) -> str:
        """The task's id. Raises: ClientError; httpx.HTTPError."""
        if order.keyed:
            return client.avatars.submit(photo(order.faceless), **order.parameters(name)).task_id
        return self._service.post(order, name)

    def _over(self) -> list[str]:
        """The accepted tasks that have ended since the last look."""
        waiting = sorted({accepted.task_id for accepted in self._ledger.accepted[:]} - self._ledger.over)
        try:
            states = _states(self._service, waiting)
        except redis.RedisError:
            return []
        return [task_id for task_id, (status, _) in zip(waiting, states, strict=True) if status not in UNFINISHED]


class Killer:
    """Kills a process when so many more tasks are done, and notes how long a worker's tasks lie idle then."""

    def __init__(self, service: Service, ledger: Ledger, plan: Plan, ended: threading.Event) -> None:
        self._service = service
        self._ledger = ledger
        self._plan = plan
        self._ended = ended
        self._dice = random.Random(plan.seed)
        self._killed: set[int] = set()
        self._idle: dict[str, tuple[int, float]] = {}  # tasks of dead workers: attempts and, unix seconds, since when

    def kill(self) -> None:
        """All that the plan says, or until the end."""
        left = kill_order(self._plan)
        while left and not self._ended.wait(PROBE_S):
            if len(self._ledger.over) * (self._plan.kills + 1) < (len(self._ledger.kills) + 1) * self._plan.tasks:
                continue
            with contextlib.suppress(RayError):  # no controller tells now what is at work
                if (kind := self._kill_first(left)) is not None:
                    left.remove(kind)

    def watch(self) -> None:
        """Which idle tasks run again, until the end."""
        while not self._ended.wait(PROBE_S):
            idle = dict(self._idle)
            with contextlib.suppress(redis.RedisError):
                states = _states(self._service, idle)
                for (task_id, (before, since)), (status, attempts) in zip(idle.items(), states, strict=True):
                    if attempts > before:
                        self._note(since)
                    if attempts > before or status not in UNFINISHED:
                        del self._idle[task_id]

    def _note(self, since: float) -> None:
        """A task that was idle since then runs again."""
        amid = any(kill.at > since - AWAY_S[kill.kind] for kill in self._ledger.kills if kill.kind in AWAY_S)
        times_s = self._ledger.runs_again_amid_s if amid else self._ledger.runs_again_s
        times_s.append(round(time.time() - since, 1))

    def _kill_first(self, kinds: Sequence[str]) -> str | None:
        """Kill a process of the first of these kinds that has a living one; None where none has."""
        living = self._service.processes()
        for kind in kinds:
            if victims := sorted(living[kind] - self._killed):
                victim = self._dice.choice(victims)
                running = self._running() if kind == "worker" else {}
                os.kill(victim, signal.SIGKILL)
                self._killed.add(victim)
                self._ledger.kills.append(Kill(kind, time.time()))
                self._idle.update({task_id: (attempts, time.time()) for task_id, attempts in running.items()})
                return kind
        return None

    def _running(self) -> dict[str, int]:
        """The tasks that the worker works on, and how often they were begun."""
        try:
            task_ids: Any = self._service.broker.zrange(KEYS.open, 0, -1)
            states = zip(task_ids, _states(self._service, task_ids), strict=True)
            return {task_id: attempts for task_id, (status, attempts) in states if status == "STARTED"}
        except redis.RedisError:
            return {}


def _states(service: Service, task_ids: Iterable[str]) -> list[tuple[str | None, int]]:
    """The status of each task and how often it was begun. Raises: RedisError."""
    pipe = service.broker.pipeline(transaction=False)
    for task_id in task_ids:
        pipe.hmget(KEYS.record(task_id), "status", "attempts")
    return [(status, int(attempts or 0)) for status, attempts in pipe.execute()]


def run_chaos(plan: Plan, report: Callable[[str], None] = lambda _: None) -> Report:
    """Everything, from the start of a service to its end."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        options = ServiceOptions(config=plan.config, port=free_port(), data_dir=Path(folder))
        with run_service(options, report) as running:
            began, service, ledger = time.monotonic(), Service(running), Ledger()
            with service.broker:  # it ends after its last client
                hung = _work_under_fire(service, ledger, plan, report)
                return examined(service, ledger, plan, time.monotonic() - began, hung)


def _work_under_fire(service: Service, ledger: Ledger, plan: Plan, report: Callable[[str], None]) -> int:
    """Until all tasks have ended, or the time is over. Gives how many clients still wait for an answer."""
    ended = threading.Event()
    clients, killer = Clients(service, ledger, plan, ended), Killer(service, ledger, plan, ended)
    senders = [_thread(clients.send) for _ in range(CLIENTS)]
    others = [_thread(work) for work in (clients.look, clients.make_room, killer.kill, killer.watch)]
    deadline = time.monotonic() + plan.minutes * 60 + DRAIN_S
    try:
        while time.monotonic() < deadline and (_alive(senders) or len(ledger.final) < len(ledger.accepted)):
            report(f"{len(ledger.over)} of {len(ledger.accepted)} tasks ended, {len(ledger.kills)} kills")
            time.sleep(PROBE_S)
    finally:
        ended.set()
    for thread in others:
        thread.join(CALL_S)
    return _alive(senders)


def _thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _alive(threads: Sequence[threading.Thread]) -> int:
    return sum(thread.is_alive() for thread in threads)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=40, help="so long at most tasks are sent")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--config", type=Path, default=CONFIG, help="of the service")
    parser.add_argument("--json", type=Path, help="where the report goes")
    given = parser.parse_args(arguments)
    end_on_signals()
    plan = Plan(given.tasks, given.kills, given.minutes, given.seed, given.config)
    try:
        with rich.get_console().status("starting") as status:
            report = run_chaos(plan, status.update)
    except KeyboardInterrupt:
        return 130
    rich.print(report.table())
    if given.json:
        given.json.write_text(json.dumps(asdict(report) | {"missed": report.misses()}, indent=2, default=str))
    return 1 if report.misses() else 0

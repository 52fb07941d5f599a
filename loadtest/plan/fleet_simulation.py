"""A load against a fleet: requests pass as arrays, a quarter of a second at a time."""

import itertools
from array import array
from typing import Any

import numpy as np

from loadtest.plan.clock import Clock
from loadtest.plan.fleet_calls import REQUEST, Rows
from loadtest.plan.fleet_slots import FleetSlots
from loadtest.plan.ledger import Ledger
from loadtest.plan.loads import Load
from loadtest.plan.replica_table import ReplicaTable
from loadtest.plan.scaled_service import LONGEST_WORK_S, ScaledService
from loadtest.plan.scenario import Scenario
from loadtest.plan.tabled_generators import TabledGenerators

TICK_S = 0.25
MOST_OWNERS = 1024  # that are told apart at an ingress


class FleetSimulation(ScaledService[TabledGenerators, int]):
    """One run. What starts, ends, dies or loads does so at its moment; requests are looked at every `TICK_S`."""

    def __init__(self, load: Load, scenario: Scenario, table: ReplicaTable) -> None:
        """`table` is of the same load and service. Raises: ValueError as `ScaledService`."""
        clock = Clock()
        super().__init__(load, scenario, clock, itertools.count().__next__)
        self.ledger = Ledger(synchronous_s=array("f"), queued_s=array("f"))
        for window in self.windows:
            window.latencies_s = array("f")
        self.generators = TabledGenerators(clock, scenario, table)
        self._slots = FleetSlots(self._settings.admission.max_images, MOST_OWNERS)
        kinds = load.columns.kinds
        self._images = np.array([kind.batch for kind in kinds], np.int32)
        self._is_queued = np.array([kind.queued for kind in kinds], bool)
        defaults = np.where(self._is_queued, self._settings.queue.deadline_s, self._settings.deadline_s)
        given = np.array([kind.deadline_s or np.nan for kind in kinds], float)
        self._deadline_s = np.where(np.isnan(given), defaults, given)
        self._next = 0  # request
        self._turn = 0  # of the ingress
        self._tasks: Rows = np.empty(0, REQUEST)  # that no worker has
        self._coming: Rows = np.empty(0, REQUEST)  # whose photo is looked at

    @property
    def queued_images(self) -> int:
        """Images of tasks that no worker has taken."""
        return int(self._tasks["calls"].sum())

    @property
    def open_images(self) -> int:
        """Images that are asked for and neither drawn nor late nor refused."""
        calls = self.generators.calls
        under_way = np.concatenate([self._tasks, self._coming, calls.waiting, calls.placed])
        return int(self._images[under_way["kind"]].sum())

    def _begin(self) -> None:
        self.clock.at(TICK_S, self._tick)

    def _tick(self) -> None:
        """What happened since the last one."""
        now = self.clock.now
        self._end(self.generators.calls.end_requests(now, self._starts.after_s))
        self._arrive(self._arrivals(now))
        self._take_tasks()
        calls_now = self._coming["called_at"] <= now
        self.generators.advance(self._coming[calls_now])
        if len(self._coming):
            self._coming = self._coming[~calls_now]
        self.clock.at(max(now + TICK_S, self._next_moment(now)), self._tick)

    def _next_moment(self, now: float) -> float:
        """When something ends or comes: a quiet hour has few ticks."""
        calls, columns = self.generators.calls, self._load.columns
        if len(self._tasks) or len(calls.waiting):
            return now
        moments = [columns.at_s[self._next] if self._next < len(columns.at_s) else np.inf]
        for rows, name in ((self._coming, "called_at"), (calls.calls, "ends_at"), (calls.placed, "ends_at")):
            if len(rows):
                moments.append(rows[name].min())
        return float(min(moments))

    def _arrivals(self, now: float) -> Rows:
        """Requests that came since the last tick."""
        columns = self._load.columns
        first, self._next = self._next, int(np.searchsorted(columns.at_s, now, side="right"))
        rows: Rows = np.zeros(self._next - first, REQUEST)
        rows["number"] = np.arange(first, self._next)
        rows["came_at"] = columns.at_s[first : self._next]
        rows["kind"] = columns.kind[first : self._next]
        rows["tenant"] = columns.tenant[first : self._next] % MOST_OWNERS
        rows["calls"] = self._images[rows["kind"]]
        rows["deadline"] = rows["came_at"] + self._deadline_s[rows["kind"]]
        rows["called_at"] = rows["came_at"] + self._starts.before_s
        return rows

    def _arrive(self, rows: Rows) -> None:
        if not len(rows):
            return
        ledger, is_cold = self.ledger, not self.generators.fleet.running
        ledger.requests += len(rows)
        ledger.images += int(rows["calls"].sum())
        ledger.met_cold_start += is_cold * len(rows)
        self._ends_by = max(self._ends_by, float(rows["deadline"].max()) + LONGEST_WORK_S)
        queued = self._is_queued[rows["kind"]]
        self._admit(rows[~queued], is_cold)
        self._enqueue(rows[queued])

    def _admit(self, rows: Rows, is_cold: bool) -> None:
        """Requests whose clients wait: each goes to the next ingress."""
        running = np.array(self._ingresses.running)
        has_slot = np.zeros(len(rows), bool)
        rows["ingress"] = running[(self._turn + 1 + np.arange(len(rows))) % len(running)]
        self._turn += len(rows)
        for first in range(0, len(rows), len(running)):
            turn = slice(first, first + len(running))
            has_slot[turn] = self._slots.hold(rows["ingress"][turn], rows["tenant"][turn], rows["calls"][turn])
        self._refuse(rows[~has_slot], "no slot")
        rows = rows[has_slot]
        if is_cold and len(rows):
            self._slots.release(rows["ingress"], rows["tenant"], rows["calls"])
            self._refuse(rows, "no generator runs")
            self.generators.wake_up()
            return
        self._open += len(rows)
        self._ingresses.load.add(len(rows), self.clock.now)
        self._slot_images.add(int(rows["calls"].sum()), self.clock.now)
        self._coming = np.concatenate([self._coming, rows])

    def _enqueue(self, rows: Rows) -> None:
        room = max(0, self._settings.queue.max_tasks - len(self._tasks) - self._tasks_running)
        self._refuse(rows[room:], "queue full")
        rows = rows[:room]
        self._open += len(rows)
        self._workers.load.add(len(rows), self.clock.now)
        self._tasks = np.concatenate([self._tasks, rows])

    def _refuse(self, rows: Rows, reason: str) -> None:
        if len(rows):
            self.ledger.refuse(reason, int(rows["calls"].sum()))
            self._window().failed += len(rows)

    def _take_tasks(self) -> None:
        """In order of their coming: whose turn it is among owners is not simulated."""
        if not len(self._tasks):
            return
        room = len(self._workers.running) * self._settings.worker.concurrency - self._tasks_running
        taken, self._tasks = self._tasks[: max(0, room)], self._tasks[max(0, room) :]
        self._tasks_running += len(taken)
        self._coming = np.concatenate([self._coming, taken])
        self._tasks["called_at"] = self.clock.now + self._starts.before_s

    def _end(self, rows: Rows) -> None:
        """Requests whose images are drawn or late."""
        if not len(rows):
            return
        queued = self._is_queued[rows["kind"]]
        waited = rows[~queued]
        if len(waited):
            images = self._images[waited["kind"]]
            self._slots.release(waited["ingress"], waited["tenant"], images)
            self._slot_images.add(-int(images.sum()), self.clock.now)
        self._ingresses.load.add(-len(waited), self.clock.now)
        self._workers.load.add(-int(queued.sum()), self.clock.now)
        self._tasks_running -= int(queued.sum())
        self._open -= len(rows)
        late = int(rows["late"].sum())
        self.ledger.late += late
        self.ledger.drawn += int(self._images[rows["kind"]].sum()) - late
        latencies_s = rows["ends_at"] + self._starts.after_s - rows["came_at"]
        is_answered = rows["late"] == 0
        self._window().failed += int((~is_answered).sum())
        _extend(self.ledger.queued_s, latencies_s[is_answered & queued])
        _extend(self.ledger.synchronous_s, latencies_s[is_answered & ~queued])
        _extend(self._window().latencies_s, latencies_s[is_answered])


def _extend(seconds: Any, values: "np.ndarray[Any, np.dtype[np.float64]]") -> None:
    """`seconds` are an array of 4 bytes each."""
    seconds.frombytes(values.astype(np.float32).tobytes())

"""GPU nodes and the generator replicas on them: starts by part, drains, deaths, and what is paid."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from loadtest.plan.clock import Clock
from loadtest.plan.replica import GeneratorReplica, Node
from loadtest.plan.scenario import Scenario

DAY_S = 86400.0

Make = Callable[[int, Node], GeneratorReplica]


@dataclass(frozen=True, slots=True)
class FleetEvents:
    """What the owner of a fleet is told."""

    runs: Callable[[GeneratorReplica], None]  # it takes calls from now on
    drains: Callable[[GeneratorReplica], bool]  # it takes no more calls; whether it has some to end
    left: Callable[[GeneratorReplica], None]  # it has ended, with or without calls
    died: Callable[[GeneratorReplica], None]  # with its calls


class Fleet:
    """Replicas on one GPU each. As many as `aim_for` said start or run; others drain."""

    def __init__(self, clock: Clock, scenario: Scenario, make: Make, events: FleetEvents) -> None:
        self._clock = clock
        self._starts = scenario.starts
        self._price = scenario.price
        self._graceful_shutdown_s = scenario.service.graceful_shutdown_s
        self._drain_look_s = scenario.service.drain_look_s
        self._make = make
        self._events = events
        self._random = Random(scenario.seed + 1)  # of deaths
        self._made = 0
        self.nodes: list[Node] = []  # also those that went
        self._paid_nodes: list[Node] = []  # those that did not
        self.starting: list[GeneratorReplica] = []
        self.running: list[GeneratorReplica] = []
        self.draining: list[GeneratorReplica] = []
        self.starts = 0
        self.deaths = 0

    def start_warm(self, replicas: int, load_s: Callable[[GeneratorReplica], float]) -> None:
        """Replicas that run from the beginning."""
        for _ in range(replicas):
            self._start(load_s, is_there=True)

    def aim_for(self, replicas: int, load_s: Callable[[GeneratorReplica], float]) -> None:
        """Start or stop replicas; `load_s` is how long one takes to load and to warm its first model."""
        there = len(self.starting) + len(self.running)
        for _ in range(replicas - there):
            self._start(load_s)
        for _ in range(there - replicas):
            self._stop_one()

    def ended(self, replica: GeneratorReplica) -> None:
        """A draining replica has no more calls: it ends when it looks for some the next time.

        As a replica of Serve, which looks in intervals, the first time not at once.
        """
        drained_s, look_s = self._clock.now - replica.drains_since, self._drain_look_s
        ends_s = look_s * max(1, math.ceil(drained_s / look_s)) if look_s else drained_s
        self._clock.at(replica.drains_since + ends_s, self._end_drained, replica)

    def paid_node_s(self, until: float) -> float:
        """Seconds of nodes up to a moment, each at least as long as is billed."""
        return sum(
            max(self._price.min_billed_s, min(until, node.released_at or until) - node.ordered_at)
            for node in self.nodes
            if node.ordered_at < until
        )

    @property
    def nodes_now(self) -> int:
        """Nodes that are ordered or there."""
        return len(self._paid_nodes)

    def _start(self, load_s: Callable[[GeneratorReplica], float], *, is_there: bool = False) -> None:
        clock, starts = self._clock, self._starts
        node = self._node_with_room(0.0 if is_there else starts.node_s)
        self._made += 1
        replica = self._make(self._made, node)
        node.replicas.add(replica)
        node.idle_since = None
        starts_at = max(clock.now, node.ready_at)
        replica.ready_at = starts_at if is_there else starts_at + starts.replica_s + load_s(replica)
        self.starting.append(replica)
        self.starts += not is_there
        clock.at(replica.ready_at, self._ready, replica)
        if starts.kills_per_gpu_day:
            lives_s = self._random.expovariate(starts.kills_per_gpu_day / DAY_S)
            clock.at(replica.ready_at + lives_s, self._die, replica)

    def _node_with_room(self, node_s: float) -> Node:
        """One that is there, else one that is ordered."""
        there = [node for node in self._paid_nodes if len(node.replicas) < node.gpus]
        if there:
            return min(there, key=lambda node: node.ready_at)
        node = Node(self._price.gpus, self._clock.now, self._clock.now + node_s)
        self.nodes.append(node)
        self._paid_nodes.append(node)
        if self._price.interruptions_per_day:
            lives_s = self._random.expovariate(self._price.interruptions_per_day / DAY_S)
            self._clock.at(node.ready_at + lives_s, self._interrupt, node)
        return node

    def _ready(self, replica: GeneratorReplica) -> None:
        if replica.state != "starting":
            return
        replica.state = "running"
        self.starting.remove(replica)
        self.running.append(replica)
        self._events.runs(replica)

    def _stop_one(self) -> None:
        """As Serve: one that does not run yet, else of the emptiest node; the newest."""
        if self.starting:
            self._leave(self.starting[-1])
            return
        fewest = min(len(replica.node.replicas) for replica in self.running)
        replica = next(each for each in reversed(self.running) if len(each.node.replicas) == fewest)
        replica.state, replica.drains_since = "draining", self._clock.now
        self.running.remove(replica)
        self.draining.append(replica)
        if self._events.drains(replica):
            self._clock.at(self._clock.now + self._graceful_shutdown_s, self._end_by_force, replica)
        else:
            self.ended(replica)

    def _end_drained(self, replica: GeneratorReplica) -> None:
        if replica.state == "draining":
            self._leave(replica)

    def _end_by_force(self, replica: GeneratorReplica) -> None:
        if replica.state == "draining":
            self._die(replica)

    def _interrupt(self, node: Node) -> None:
        """A spot node goes without a word."""
        if node.released_at is None:
            self._give_back(node)
            for replica in sorted(node.replicas, key=lambda replica: replica.number):
                self._die(replica)

    def _die(self, replica: GeneratorReplica) -> None:
        if replica.state == "ended":
            return
        self.deaths += 1
        self._leave(replica)
        self._events.died(replica)

    def _leave(self, replica: GeneratorReplica) -> None:
        for group in (self.starting, self.running, self.draining):
            if replica in group:
                group.remove(replica)
        replica.state = "ended"
        self._events.left(replica)
        node = replica.node
        node.replicas.discard(replica)
        if not node.replicas and node.released_at is None:
            node.idle_since = self._clock.now
            self._clock.at(self._clock.now + self._starts.node_idle_s, self._release, node, self._clock.now)

    def _release(self, node: Node, idle_since: float) -> None:
        if node.idle_since == idle_since and not node.replicas and node.released_at is None:
            self._give_back(node)

    def _give_back(self, node: Node) -> None:
        node.released_at = self._clock.now
        self._paid_nodes.remove(node)

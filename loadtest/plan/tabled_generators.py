"""Generators of a fleet: how long images take is drawn from a table; replicas and their models are exact."""

from collections import Counter
from random import Random

import numpy as np

from loadtest.plan.clock import Clock
from loadtest.plan.engine import SimulatedEngine
from loadtest.plan.fleet_calls import FleetCalls, Mask, Rows
from loadtest.plan.replica import GeneratorReplica, LoadedModels, Node
from loadtest.plan.replica_table import Floats, Numbers, ReplicaTable
from loadtest.plan.scaled_generators import ScaledGenerators
from loadtest.plan.scenario import Scenario

LEVEL_S = 10.0  # over which the images of replicas are averaged


class TabledGenerators(ScaledGenerators):
    """Replicas with the same models are a group, whose images are spread evenly: the router takes the emptier one.

    Which replica has an image matters when one drains, dies or changes its models: then a share of them is drawn.
    """

    def __init__(self, clock: Clock, scenario: Scenario, table: ReplicaTable) -> None:
        self._table = table
        self._random = np.random.default_rng(scenario.seed)
        self._pairs = Random(scenario.seed)
        self._names = sorted({cell.model for cell in table.demand.cells})
        self._model_of = np.array([self._names.index(cell.model) for cell in table.demand.cells], np.intp)
        self._images_of = np.array([cell.batch for cell in table.demand.cells], np.intp)
        self._groups: dict[frozenset[str], int] = {}
        self._models_of: list[frozenset[str]] = []  # of each group
        self._sizes = np.empty(0, np.intp)  # likewise: replicas
        self._levels = np.empty(0)  # likewise: recent images of a replica
        self._levels_at = 0.0
        self._group_of: dict[GeneratorReplica, int] = {}
        self._loads_end: dict[tuple[GeneratorReplica, str], float] = {}
        self._held: Counter[int] = Counter()  # images that wait for a model, by the number of the replica
        self._busy_s = 0.0
        self.calls = FleetCalls(self._random)
        super().__init__(clock, scenario)

    @property
    def waiting(self) -> int:
        """Calls at handles."""
        return self.calls.waiting_images

    @property
    def busy_s(self) -> float:
        """Seconds of steps and decodings for all images so far that a replica took."""
        return self._busy_s

    def advance(self, requests: Rows) -> None:
        """What happened since the last call: images ended, requests called for theirs."""
        now, images = self._clock.now, int(requests["calls"].sum())
        self._ongoing.add(images - self.calls.end_images(now), now)
        self._queued.add(images, now)
        if len(requests):
            self.calls.waiting = np.concatenate([self.calls.waiting, requests])
        images_of = self.calls.in_groups(len(self._sizes))
        per_replica = images_of / np.maximum(1, self._sizes)
        self._levels += (per_replica - self._levels) * min(1.0, (now - self._levels_at) / LEVEL_S)
        self._levels_at = now
        if len(self.calls.waiting):
            self._assign_all(now, images_of)

    def _assign_all(self, now: float, images: Numbers) -> None:
        """Requests go to a group with their model, as far as it has room; for others it is loaded."""
        waiting = self.calls.waiting
        models = self._model_of[self._table.demand.of_kind[waiting["kind"]]]
        has_place = np.zeros(len(waiting), bool)
        for number, model in enumerate(self._names):
            asks = np.flatnonzero(models == number)
            images = np.pad(images, (0, len(self._sizes) - len(images)))  # loads for the model before made new groups
            if len(asks):
                asks = self._assign_ready(asks, model, images, has_place)
                self._assign_others(asks, model, has_place)
        self._queued.add(-int(waiting["calls"][has_place].sum()), now)
        self.calls.place(has_place)
        self.calls.waiting["called_at"] = now

    def _assign_ready(self, asks: Numbers, model: str, images: Numbers, has_place: Mask) -> Numbers:
        """By the router's rule: of two replicas the emptier one. Returns those for which there is no room."""
        ready = [group for models, group in self._groups.items() if model in models and self._sizes[group]]
        if not ready:
            return asks
        ready.sort(key=lambda group: images[group] / self._sizes[group])
        as_full = np.cumsum(self._sizes[ready][::-1])[::-1] / self._sizes[ready].sum()  # or fuller: shares of replicas
        chances = as_full**2 - np.append(as_full[1:], 0.0) ** 2
        choice = self._random.choice(len(ready), len(asks), p=chances) if len(ready) > 1 else np.zeros(len(asks), int)
        for _ in ready:  # those for which the group of their choice has no room try the next one
            left = []
            for index, group in enumerate(ready):
                chosen = asks[choice == index]
                calls = np.cumsum(self.calls.waiting["calls"][chosen])
                fits = images[group] + calls <= self._max_ongoing * self._sizes[group]
                if fits.any():
                    self._assign(chosen[fits], group, int(images[group]))
                    images[group] += calls[fits][-1]
                    has_place[chosen[fits]] = True
                left.append(chosen[~fits])
            asks = np.concatenate(left)
            choice = np.repeat((np.arange(len(ready)) + 1) % len(ready), [len(each) for each in left])
        return np.sort(asks)

    def _assign(self, chosen: Numbers, group: int, images: int) -> None:
        """A group with so many images takes waiting requests."""
        rows, replicas = self.calls.waiting[chosen], int(self._sizes[group])
        records = self._table.records(self._models_of[group], replicas)
        levels = (images + np.cumsum(rows["calls"]) - rows["calls"]) / replicas
        levels = np.where(levels > records.steady, levels, self._levels[group])
        cells = self._table.demand.of_kind[rows["kind"]]
        self._busy_s += float(rows["calls"] @ records.busy_s(levels))
        seconds = records.draw(cells, levels, self._random)
        column = np.minimum(np.arange(rows["calls"].max()), self._images_of[cells][:, None] - 1)
        seconds = np.take_along_axis(seconds, column, axis=1)
        self.calls.give(chosen, rows["called_at"][:, None] + seconds, group)

    def _assign_others(self, asks: Numbers, model: str, has_place: Mask) -> None:
        """Replicas without the model load it: each image asks two, of which the one with fewer images takes it."""
        others = [each for each in self.fleet.running if model not in each.models] if len(asks) else []
        if not others:
            return
        records = self._table.records(frozenset([model]), 1)
        images = self.calls.in_groups(len(self._sizes)) / np.maximum(1, self._sizes)
        for index in asks:
            images = np.pad(images, (0, len(self._sizes) - len(images)))
            row = self.calls.waiting[index]
            takers = [self._taker(others, images) for _ in range(row["calls"])]
            if not all(self._begin_load(taker, model) for taker in takers):
                return
            cell = self._table.demand.of_kind[row["kind"]]
            ends_at = []
            for taker in takers:
                level = np.array([self._held[taker.number]], float)
                seconds = records.draw(np.array([cell]), level, self._random)[0, 0]
                ends_at.append(self._loads_end[taker, model] + seconds)
                self._busy_s += float(records.busy_s(level)[0])
                self._held[taker.number] += 1
            self.calls.give(np.array([index]), np.array([ends_at]), -1, np.array([each.number for each in takers]))
            has_place[index] = True

    def _taker(self, others: list[GeneratorReplica], images: Floats) -> GeneratorReplica:
        pair = self._pairs.sample(others, min(2, len(others)))
        return min(pair, key=lambda each: self._held[each.number] + images[self._group_of[each]])

    def _begin_load(self, replica: GeneratorReplica, model: str) -> bool:
        """Whether the replica has room for another image, and for the model, which it loads then."""
        if self._held[replica.number] >= self._max_ongoing:
            return False
        now = self._clock.now
        if not replica.models.is_known(model):
            if not replica.models.lease(model):
                return False
            self.model_loads += 1
            self._loads_end[replica, model] = now + self._load_s(model)
            self._clock.at(self._loads_end[replica, model], self._load_ended, replica, model)
            self._regroup(replica)
        self._loads_end.setdefault((replica, model), now + self._load_s(model))  # loading by itself: at the latest
        return True

    def _load_ended(self, replica: GeneratorReplica, model: str) -> None:
        if replica.state != "ended":
            self._loaded(replica, model)
            replica.models.release(model)

    def _loaded(self, replica: GeneratorReplica, name: str) -> None:
        replica.models.has_loaded(name)
        self._loads_end.pop((replica, name), None)
        self._regroup(replica)

    def _regroup(self, replica: GeneratorReplica) -> None:
        """A running replica joins those with its models, and takes its images along."""
        if replica.state != "running":
            return
        group = self._group(frozenset(replica.models.loaded))
        old = self._group_of.get(replica)
        if old != group:
            if old is not None:
                self.calls.move_share(old, int(self._sizes[old]), group)
                self._sizes[old] -= 1
            self._sizes[group] += 1
            self._group_of[replica] = group
        if self._held[replica.number] and not any(each is replica for each, _ in self._loads_end):
            del self._held[replica.number]
            self.calls.join(replica.number, group)

    def _group(self, models: frozenset[str]) -> int:
        if models not in self._groups:
            self._groups[models] = len(self._groups)
            self._models_of.append(models)
            self._sizes = np.append(self._sizes, 0)
            self._levels = np.append(self._levels, 0.0)
        return self._groups[models]

    def _leave_group(self, replica: GeneratorReplica) -> None:
        """It takes the images with it that it has."""
        group = self._group_of.pop(replica, None)
        if group is not None:
            self.calls.move_share(group, int(self._sizes[group]), -1, replica.number)
            self._sizes[group] -= 1

    def _make(self, number: int, node: Node) -> GeneratorReplica:
        models = LoadedModels(self._memory, self._settings.memory_gb)
        return GeneratorReplica(number, node, models, SimulatedEngine(self._table.costs, 0.0, lambda _: 0.0))

    def _takes_calls(self, replica: GeneratorReplica) -> None:
        self._regroup(replica)

    def _has_room(self, replica: GeneratorReplica) -> None:
        """Images that no replica could load the model for wait at handles, and ask again."""

    def _drains(self, replica: GeneratorReplica) -> bool:
        self._leave_group(replica)
        ends_at = self.calls.last_end(replica.number)
        if ends_at is not None:
            self._clock.at(ends_at, self._drained, replica)
        return ends_at is not None

    def _drained(self, replica: GeneratorReplica) -> None:
        if replica.state == "draining":
            self.fleet.ended(replica)

    def _left(self, replica: GeneratorReplica) -> None:
        self._leave_group(replica)

    def _died(self, replica: GeneratorReplica) -> None:
        self._queued.add(self.calls.redo(replica.number, self._clock.now), self._clock.now)

    def _give_up_late(self, now: float) -> None:
        images = self.calls.give_up_late(now)
        self._ongoing.add(-images, now)
        self._queued.add(-images, now)

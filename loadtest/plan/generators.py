"""Calls of the generator: Serve's handle with the router's choice, and what replicas do with them."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from deployments.diffusion.engine.scheduler import Bucket, Row
from deployments.diffusion.router import Standing, groups_to_ask
from deployments.types import FaceEmbedding
from loadtest.plan.clock import Clock
from loadtest.plan.engine import KnownCosts, NoDenoiser, SimulatedEngine
from loadtest.plan.replica import GeneratorReplica, Image, LoadedModels, Node
from loadtest.plan.scaled_generators import ScaledGenerators
from loadtest.plan.scenario import Scenario

NOBODY = FaceEmbedding(np.zeros(0, np.float32), (0, 0, 1, 1), 1.0)
DENOISER = NoDenoiser()


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Who is told of images: each is drawn or late, once."""

    drawn: Callable[[Image], None]
    late: Callable[[Image], None]


class Generators(ScaledGenerators):
    """The deployment of generators, with those calls that wait at its handles."""

    def __init__(self, clock: Clock, scenario: Scenario, costs: KnownCosts, outcomes: Outcomes) -> None:
        self._curves, self._costs, self._outcomes = scenario.curves, costs, outcomes
        self._launched_ahead = scenario.launched_ahead
        self._decodes_s: dict[Bucket, float] = {}
        self._random = Random(scenario.seed)
        self._waiting: deque[Image] = deque()
        self._first_deadline = math.inf  # of the waiting calls: none is earlier
        self._busy_s = 0.0  # of replicas that ended
        super().__init__(clock, scenario)

    @property
    def waiting(self) -> int:
        """Calls at handles."""
        return len(self._waiting)

    @property
    def busy_s(self) -> float:
        """Seconds of steps and decodings of all replicas so far."""
        alive = (*self.fleet.running, *self.fleet.draining)
        return self._busy_s + sum(replica.engine.busy_s for replica in alive)

    def call(self, image: Image) -> None:
        """Ask for an image."""
        self._ongoing.add(1, self._clock.now)
        self._route(image)

    def _make(self, number: int, node: Node) -> GeneratorReplica:
        models = LoadedModels(self._memory, self._settings.memory_gb)
        ahead = self._launched_ahead
        engine = SimulatedEngine(self._costs, self._settings.ageing, self._decode_s, launched_ahead=ahead)
        return GeneratorReplica(number, node, models, engine)

    def _decode_s(self, row: Row) -> float:
        known = self._decodes_s.get(row.bucket)
        if known is None:
            known = self._curves.decode_s(row.spec.model, (row.spec.width, row.spec.height))
            self._decodes_s[row.bucket] = known
        return known

    def _route(self, image: Image) -> None:
        if not self._waiting:
            replica = self._choose(image.spec.model)
            if replica is not None:
                self._assign(image, replica)
                return
        self._waiting.append(image)
        self._queued.add(1, self._clock.now)
        self._first_deadline = min(self._first_deadline, image.spec.deadline)

    def _choose(self, model: str) -> GeneratorReplica | None:
        """The router's choice; where those that it asks are full, Serve asks others milliseconds later."""
        running = self.fleet.running
        return self._best_of(running, model) or self._best_of(
            [each for each in running if len(each.ongoing) < self._max_ongoing], model
        )

    def _best_of(self, replicas: Sequence[GeneratorReplica], model: str) -> GeneratorReplica | None:
        """The one with the fewest calls of the first group in which one has room."""

        def standing_of(replica: GeneratorReplica) -> Standing:
            row_s, is_loading = replica.recent_rows.coarse_s, replica.models.is_known(model)
            return Standing(len(replica.ongoing), row_s, self._load_s(model), is_loading)

        for group in groups_to_ask(replicas, model, lambda each: each.models, standing_of, self._random):
            best = min(group, key=lambda each: len(each.ongoing))
            if len(best.ongoing) < self._max_ongoing:
                return best
        return None

    def _assign(self, image: Image, replica: GeneratorReplica) -> None:
        replica.ongoing[image.number] = image
        self._lease(image, replica)

    def _lease(self, image: Image, replica: GeneratorReplica) -> bool:
        name = image.spec.model
        is_known = replica.models.is_known(name)
        if not replica.models.lease(name):
            replica.unleased.append(image)
            return False
        if not is_known:
            self.model_loads += 1
            self._clock.at(self._clock.now + self._load_s(name), self._loaded, replica, name)
        if name in replica.models:
            self._submit(image, replica)
        else:
            replica.loading.setdefault(name, []).append(image)
        return True

    def _has_room(self, replica: GeneratorReplica) -> None:
        """A lease ended: models that had no room may have some."""
        unleased, replica.unleased = replica.unleased, []
        for image in unleased:
            self._lease(image, replica)

    def _loaded(self, replica: GeneratorReplica, name: str) -> None:
        if replica.state == "ended":
            return
        replica.models.has_loaded(name)
        for image in replica.loading.pop(name, ()):
            self._submit(image, replica)

    def _submit(self, image: Image, replica: GeneratorReplica) -> None:
        spec, now = image.spec, self._clock.now
        row = Row(spec, NOBODY, DENOISER, (spec.model, (spec.width, spec.height)), now)
        replica.recent_rows.add(row.shared_s(self._costs))
        replica.rows[row] = image
        replica.engine.add(row, now)
        self._arrange(replica)

    def _arrange(self, replica: GeneratorReplica) -> None:
        """What the engine has to do next, and the images that it will have drawn."""
        engine = replica.engine
        for row, at in engine.drawn():
            self._clock.at(at, self._drawn, replica, row)
        if engine.wake_at != replica.woken_for:
            replica.woken_for = engine.wake_at
            if engine.wake_at < math.inf:
                self._clock.at(engine.wake_at, self._wake, replica, engine.wake_at)

    def _wake(self, replica: GeneratorReplica, at: float) -> None:
        if replica.state == "ended" or at != replica.woken_for:
            return  # it died, or other rows came
        replica.woken_for = math.inf
        expired = replica.engine.wake(self._clock.now)
        self._arrange(replica)
        for row in expired:
            self._over(replica, row, self._outcomes.late)

    def _drawn(self, replica: GeneratorReplica, row: Row) -> None:
        if replica.state != "ended":
            self._over(replica, row, self._outcomes.drawn)

    def _over(self, replica: GeneratorReplica, row: Row, tell: Callable[[Image], None]) -> None:
        image = replica.rows.pop(row)
        del replica.ongoing[image.number]
        self._ongoing.add(-1, self._clock.now)
        if replica.models.release(image.spec.model) and replica.unleased:
            self._has_room(replica)
        self._takes_calls(replica)
        if replica.state == "draining" and not replica.ongoing:
            self.fleet.ended(replica)
        tell(image)

    def _takes_calls(self, replica: GeneratorReplica) -> None:
        """A waiting call takes the place that became free: the handle asks again and again."""
        while self._waiting and replica.state == "running" and len(replica.ongoing) < self._max_ongoing:
            self._queued.add(-1, self._clock.now)
            self._assign(self._waiting.popleft(), replica)

    def _drains(self, replica: GeneratorReplica) -> bool:
        return bool(replica.ongoing)

    def _left(self, replica: GeneratorReplica) -> None:
        self._busy_s += replica.engine.busy_s

    def _died(self, replica: GeneratorReplica) -> None:
        """Its calls are made again, from their first step."""
        for image in replica.ongoing.values():
            self._route(image)

    def _give_up_late(self, now: float) -> None:
        if self._first_deadline > now:
            return
        late = [image for image in self._waiting if image.spec.deadline <= now]
        self._waiting = deque(image for image in self._waiting if image.spec.deadline > now)
        self._first_deadline = min((image.spec.deadline for image in self._waiting), default=math.inf)
        for image in late:
            self._ongoing.add(-1, now)
            self._queued.add(-1, now)
            self._outcomes.late(image)

"""What the deployment of generators does in both modes: it scales, starts replicas, and loads their models."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from loadtest.plan.autoscaling import Autoscaler
from loadtest.plan.clock import Clock
from loadtest.plan.fleet import Fleet, FleetEvents
from loadtest.plan.replica import GeneratorReplica, Node
from loadtest.plan.scenario import Scenario
from serve_app.policies import ROWS


class ScaledGenerators(ABC):
    """Replicas as the autoscaler wants them. What they do with their calls is the business of a subclass."""

    def __init__(self, clock: Clock, scenario: Scenario) -> None:
        service = scenario.service
        self._clock, self._starts = clock, scenario.starts
        self._settings = service.settings.generator
        used = {name: model for name, model in self._settings.models.items() if name in scenario.curves.models}
        self._memory = {name: model.memory() for name, model in used.items()}
        self._max_ongoing = service.max_ongoing_requests
        self._wakers = 0  # calls that wait for the first replica and ask nothing of it
        self.model_loads = 0
        self.scaler = Autoscaler("AvatarGenerator", service.scaling["AvatarGenerator"])
        self._ongoing, self._queued = self.scaler.sliding_mean(), self.scaler.sliding_mean()
        events = FleetEvents(self._runs, self._drains, self._left, self._died)
        self.fleet = Fleet(clock, scenario, self._make, events)
        self.fleet.start_warm(self.scaler.target, self._first_load_s)

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Calls at handles."""

    @property
    def ongoing(self) -> int:
        """Calls at handles and in replicas."""
        return self._ongoing.value - self._wakers

    @property
    @abstractmethod
    def busy_s(self) -> float:
        """Seconds of steps and decodings of all replicas so far."""

    def wake_up(self) -> None:
        """A call that only brings the first replica: `AvatarGenerator.scale_from_zero`."""
        if not self._wakers:
            self._wakers = 1
            self._ongoing.add(1, self._clock.now)
            self._queued.add(1, self._clock.now)

    def scale(self) -> None:
        """One decision of the autoscaler; calls that waited past their deadline are given up."""
        now = self._clock.now
        self._give_up_late(now)
        total, queued = self._ongoing.take(now), self._queued.take(now)
        target = self.scaler.decide(now, len(self.fleet.running), total, queued, {ROWS: total - queued})
        self.fleet.aim_for(target, self._first_load_s)

    def _load_s(self, model: str) -> float:
        return self._starts.load_s(self._memory[model])

    def _first_load_s(self, replica: GeneratorReplica) -> float:
        return self._load_s(replica.models.fitting()[0])

    def _runs(self, replica: GeneratorReplica) -> None:
        first, *others = replica.models.fitting()
        replica.models.lease(first)
        replica.models.has_loaded(first)
        replica.models.release(first)
        if self._wakers:
            self._wakers = 0
            self._ongoing.add(-1, self._clock.now)
            self._queued.add(-1, self._clock.now)
        self._preload(replica, others)
        self._takes_calls(replica)

    def _preload(self, replica: GeneratorReplica, names: Sequence[str]) -> None:
        """One by one, while images are drawn."""
        for index, name in enumerate(names):
            if not replica.models.is_known(name) and replica.models.fits_beside(name):
                replica.models.lease(name)
                self._clock.at(self._clock.now + self._load_s(name), self._preloaded, replica, name, names[index + 1 :])
                return

    def _preloaded(self, replica: GeneratorReplica, name: str, others: Sequence[str]) -> None:
        if replica.state != "ended":
            self._loaded(replica, name)
            replica.models.release(name)
            self._has_room(replica)
            self._preload(replica, others)

    @abstractmethod
    def _make(self, number: int, node: Node) -> GeneratorReplica:
        """A replica that starts."""

    @abstractmethod
    def _takes_calls(self, replica: GeneratorReplica) -> None:
        """A replica runs, or one of its calls ended."""

    @abstractmethod
    def _loaded(self, replica: GeneratorReplica, name: str) -> None:
        """The load of a model has ended."""

    @abstractmethod
    def _has_room(self, replica: GeneratorReplica) -> None:
        """A lease ended: models that had no room may have some."""

    @abstractmethod
    def _drains(self, replica: GeneratorReplica) -> bool:
        """A replica takes no more calls; whether it has some to end."""

    @abstractmethod
    def _left(self, replica: GeneratorReplica) -> None:
        """A replica has ended."""

    @abstractmethod
    def _died(self, replica: GeneratorReplica) -> None:
        """A replica that has ended had calls perhaps: they are made again, from their first step."""

    @abstractmethod
    def _give_up_late(self, now: float) -> None:
        """Calls that wait at handles past their deadline are late."""

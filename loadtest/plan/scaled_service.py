"""A load against the service: what both modes have in common."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Generic, Self, TypeVar

from loadtest.plan.autoscaling import Autoscaler, TimeMean
from loadtest.plan.clock import Clock
from loadtest.plan.cpu_replicas import CpuReplicas
from loadtest.plan.ledger import WINDOW_S, Ledger, Window
from loadtest.plan.loads import Load
from loadtest.plan.scaled_generators import ScaledGenerators
from loadtest.plan.scenario import Scenario
from serve_app.policies import SLOTS, TASKS

LONGEST_WORK_S = 3600.0  # between two looks at deadlines: a load of a model, the steps of a batch

G = TypeVar("G", bound=ScaledGenerators)
S = TypeVar("S")


class ScaledService(ABC, Generic[G, S]):
    """One run: deployments that scale, and what comes out. How requests pass them is the business of a subclass.

    `G` are its generators; `S` is what an ingress has for its slots.
    """

    generators: G

    def __init__(self, load: Load, scenario: Scenario, clock: Clock, make_slots: Callable[[], S]) -> None:
        """Raises: ValueError where the load asks for an app that the service does not have."""
        service, starts = scenario.service, scenario.starts
        check_apps(load, service.models)
        self._load, self._scenario, self._starts = load, scenario, starts
        self._settings, self._models = service.settings, service.models
        self.clock = clock
        self.ledger = Ledger()
        self.windows = [Window() for _ in range(math.ceil(load.seconds / WINDOW_S))]
        scaling = {name: Autoscaler(name, service.scaling[name]) for name in ("AvatarIngress", "AvatarWorker")}
        self._ingresses = CpuReplicas(clock, starts.cpu_replica_s, scaling["AvatarIngress"], make_slots)
        self._workers = CpuReplicas(clock, starts.cpu_replica_s, scaling["AvatarWorker"], object)
        self._slot_images = TimeMean()  # of requests that hold slots of an ingress
        self._tasks_running = 0
        self._open = 0  # requests under way
        self._ends_by = 0.0  # when every request so far has ended

    @property
    def gpu_hours(self) -> float:
        """GPUs of nodes that are paid, hours."""
        return self._scenario.price.gpus * self.generators.fleet.paid_node_s(self._load.seconds) / 3600

    @property
    def cost(self) -> float:
        """What the nodes cost."""
        return self._scenario.price.per_hour * self.generators.fleet.paid_node_s(self._load.seconds) / 3600

    @property
    @abstractmethod
    def queued_images(self) -> int:
        """Images of tasks that no worker has taken."""

    @abstractmethod
    def _take_tasks(self) -> None:
        """The workers take what they have room for."""

    @abstractmethod
    def _begin(self) -> None:
        """Arrange for the first request."""

    def run(self) -> Self:
        """From the first request to the last answer; returns itself.

        Raises: AssertionError where requests are open long after their deadlines: images would be lost.
        """
        clock = self.clock
        for scale in (self._scale_ingresses, self._scale_workers, self._scale_generators):
            clock.at(0.0, scale)
        self._begin()
        clock.run_while(lambda: clock.now < self._load.seconds or (self._open > 0 and clock.now < self._ends_by))
        if self._open:
            raise AssertionError(f"{self._open} requests have neither images nor an error")
        return self

    def _window(self) -> Window:
        return self.windows[min(int(self.clock.now / WINDOW_S), len(self.windows) - 1)]

    def _scale_ingresses(self) -> None:
        now, slots = self.clock.now, self._settings.admission.max_images
        self._ingresses.scale(self._ingresses.load.take(now), {SLOTS: self._slot_images.take(now) / slots})
        self.clock.at(self.clock.now + self._ingresses.scaler.look_back_s, self._scale_ingresses)

    def _scale_workers(self) -> None:
        self._workers.scale(0.0, {TASKS: self._workers.load.take(self.clock.now)})
        self._take_tasks()
        self.clock.at(self.clock.now + self._workers.scaler.look_back_s, self._scale_workers)

    def _scale_generators(self) -> None:
        self.generators.scale()
        if self.clock.now < self._load.seconds:
            window = self._window()
            window.samples += 1
            window.running += len(self.generators.fleet.running)
            window.nodes += self.generators.fleet.nodes_now
            window.waiting += self.generators.waiting + self.queued_images
        self.clock.at(self.clock.now + self.generators.scaler.report_s, self._scale_generators)


def check_apps(load: Load, models: Mapping[str, str]) -> None:
    """Raises: ValueError where a load asks for an app without a model."""
    if unknown := {kind.app for kind in load.columns.kinds} - models.keys():
        raise ValueError(f"the service has no app {', '.join(sorted(unknown))}; it has {', '.join(models)}")

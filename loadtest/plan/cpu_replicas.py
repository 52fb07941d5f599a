"""Deployments without a GPU: ingresses and workers."""

from collections.abc import Callable
from typing import Generic, TypeVar

from loadtest.plan.autoscaling import Autoscaler, TimeMean
from loadtest.plan.clock import Clock

T = TypeVar("T")


class CpuReplicas(Generic[T]):
    """Replicas that need no GPU: they start in a fixed time, on nodes that are there."""

    def __init__(self, clock: Clock, start_s: float, scaler: Autoscaler, make: Callable[[], T]) -> None:
        self._clock = clock
        self._start_s = start_s
        self._make = make
        self._starting = 0
        self.scaler = scaler
        self.load = TimeMean()
        self.running = [make() for _ in range(scaler.target)]

    def scale(self, metric: str = "") -> None:
        """One decision of the autoscaler about `load`, which counts calls, or is reported as a metric."""
        mean = self.load.take(self._clock.now)
        calls, reported = (0.0, {metric: mean}) if metric else (mean, {})
        target = self.scaler.decide(self._clock.now, len(self.running), calls, 0.0, reported)
        for _ in range(target - len(self.running) - self._starting):
            self._starting += 1
            self._clock.at(self._clock.now + self._start_s, self._ready)
        del self.running[target:]

    def _ready(self) -> None:
        self._starting -= 1
        if len(self.running) < self.scaler.target:
            self.running.append(self._make())

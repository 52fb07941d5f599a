"""Deployments without a GPU: ingresses and workers."""

from collections.abc import Callable, Mapping
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

    def scale(self, calls: float, reported: Mapping[str, float]) -> None:
        """One decision of the autoscaler about means since the last one: calls, and totals of metrics."""
        target = self.scaler.decide(self._clock.now, len(self.running), calls, 0.0, dict(reported))
        for _ in range(target - len(self.running) - self._starting):
            self._starting += 1
            self._clock.at(self._clock.now + self._start_s, self._ready)
        del self.running[target:]

    def _ready(self) -> None:
        self._starting -= 1
        if len(self.running) < self.scaler.target:
            self.running.append(self._make())

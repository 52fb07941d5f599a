"""Autoscaling policies: how many replicas a deployment needs for its queued and running work.

Serve's controller calls them ten times a second, so nothing here blocks: the replicas report their work
(`record_autoscaling_stats`). The deployment's `autoscaling_config` limits and delays the result; its
`target_ongoing_requests` is the work of one replica. Serve itself starts the first replica of a stage at zero, as soon
as a call waits for it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

TASKS = "tasks"  # queued and running; every worker reports the total
ROWS = "rows"  # images queued and running in an engine; every generator reports its own
SPARE = 0.2


class Context(Protocol):
    """The part of `ray.serve.config.AutoscalingContext` that the policies read."""

    @property
    def target_num_replicas(self) -> int:
        """The number of replicas that Serve aims for now."""

    @property
    def total_num_requests(self) -> float:
        """Requests queued at handles and running in replicas, aggregated over the look-back period."""

    @property
    def total_queued_requests(self) -> float:
        """The part of `total_num_requests` that is queued at handles."""

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None:
        """The values of `record_autoscaling_stats` by name, then replica, aggregated over the look-back period."""

    @property
    def config(self) -> Any:
        """The deployment's `autoscaling_config`."""


def replicas_for(work: float, per_replica: float, now: int, spare: float = SPARE) -> int:
    """The number of replicas for this work. Scales down from `now` only if the rest keep the share `spare` free.

    This hysteresis keeps work that fluctuates around a threshold from starting and stopping replicas.
    """
    needed = math.ceil(work / per_replica)
    return needed if needed >= now else min(now, math.ceil(work / (per_replica * (1 - spare))))


class DemandPolicy(ABC):
    """As many replicas as queued and running work needs; no change while the work is unknown."""

    def __init__(self, spare: float = SPARE) -> None:
        if not 0 <= spare < 1:
            raise ValueError(f"spare is a share from 0 to below 1, not {spare}")
        self._spare = spare

    def __call__(self, context: Context) -> tuple[int, dict[str, Any]]:
        """The number of replicas for Serve's controller, and no state to keep."""
        work, now = self.work(context), context.target_num_replicas
        if work is None:
            return now, {}
        return replicas_for(work, context.config.get_target_ongoing_requests(), now, self._spare), {}

    @abstractmethod
    def work(self, context: Context) -> float | None:
        """Mean over the look-back period in the unit of `target_ongoing_requests`; None where unknown."""


class TasksPolicy(DemandPolicy):
    """For `AvatarWorker`: queued and running tasks."""

    def work(self, context: Context) -> float | None:
        """The largest of the workers' reports, since each counts all tasks; None while there is none."""
        reported = (context.aggregated_metrics or {}).get(TASKS, {})
        return max(reported.values(), default=None)


class RowsPolicy(DemandPolicy):
    """For `AvatarGenerator`: images queued at callers or in engines, and images being generated."""

    def work(self, context: Context) -> float | None:
        """The larger of Serve's count of the images and the generators' own, with those that are queued at handles."""
        reported = (context.aggregated_metrics or {}).get(ROWS, {})
        # Serve's request counts are the same images. Either count may lag; the larger one is safe.
        return max(context.total_num_requests, context.total_queued_requests + sum(reported.values()))

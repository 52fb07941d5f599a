"""How many replicas a deployment needs, by the work that waits and runs.

Serve's controller asks ten times a second, so nothing here waits for anything: the replicas report what there is
(`record_autoscaling_stats`). What comes out is bounded, and delayed, by the deployment's `autoscaling_config`; its
`target_ongoing_requests` is how much work one replica takes. A stage at zero gets its first replica from Serve itself,
as soon as a call waits for it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

TASKS = "tasks"  # in the queue and in the hands of workers: every worker reports all of them
ROWS = "rows"  # images in a generator's engine, waiting and being drawn: every generator reports its own
SPARE = 0.2


class Context(Protocol):
    """What a policy reads of `ray.serve.config.AutoscalingContext`."""

    @property
    def target_num_replicas(self) -> int: ...
    @property
    def total_num_requests(self) -> float: ...
    @property
    def total_queued_requests(self) -> float: ...
    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None: ...
    @property
    def config(self) -> Any: ...


def replicas_for(work: float, per_replica: float, now: int, spare: float = SPARE) -> int:
    """How many replicas do this work. Of `now`, one goes only where the rest would have that share of them to spare.

    So work that swings around what some replicas just do keeps them, and starts and stops none.
    """
    needed = math.ceil(work / per_replica)
    return needed if needed >= now else min(now, math.ceil(work / (per_replica * (1 - spare))))


class DemandPolicy(ABC):
    """As many replicas as the work needs that waits and runs; as many as there are while nothing is known of it."""

    def __init__(self, spare: float = SPARE) -> None:
        if not 0 <= spare < 1:
            raise ValueError(f"spare is a share from 0 to below 1, not {spare}")
        self._spare = spare

    def __call__(self, context: Context) -> tuple[int, dict[str, Any]]:
        work, now = self.work(context), context.target_num_replicas
        if work is None:
            return now, {}
        return replicas_for(work, context.config.get_target_ongoing_requests(), now, self._spare), {}

    @abstractmethod
    def work(self, context: Context) -> float | None:
        """In the unit of `target_ongoing_requests`, a mean over the look-back period; None where unknown."""


class TasksPolicy(DemandPolicy):
    """Of `AvatarWorker`: tasks that wait in the queue, and those that run."""

    def work(self, context: Context) -> float | None:
        reported = (context.aggregated_metrics or {}).get(TASKS, {})
        return max(reported.values(), default=None)


class RowsPolicy(DemandPolicy):
    """Of `AvatarGenerator`: images that wait, at the callers' or in the engines, and those that are being drawn."""

    def work(self, context: Context) -> float | None:
        reported = (context.aggregated_metrics or {}).get(ROWS, {})
        # The calls that Serve counts are the same images. Either count may be late, and the larger one is safe.
        return max(context.total_num_requests, context.total_queued_requests + sum(reported.values()))

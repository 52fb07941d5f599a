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
SLOTS = "slots"  # the share of its slots for images that an ingress uses; every ingress reports its own
ROWS = "rows"  # images queued and running in an engine; every generator reports its own
SPARE = 0.2
MEAN, SEEN_AT = "mean_rows", "seen_at"  # in the state of `SteadyRowsPolicy`
CLIP = 2.0  # a moment's images count as at most so many times what the running replicas should have
BURST = 2.0  # so many times what the replicas draw at once: a backlog that no mean of minutes may wait for


class Context(Protocol):
    """The part of `ray.serve.config.AutoscalingContext` that the policies read."""

    @property
    def current_num_replicas(self) -> int:
        """The number of replicas that run."""

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
    def policy_state(self) -> Mapping[str, Any]:
        """What the policy returned as its state last time; empty at first, and when the controller has started anew."""

    @property
    def current_time(self) -> float:
        """Seconds."""

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


class SlotsPolicy(DemandPolicy):
    """For `AvatarIngress`: by requests, or by the images of those whose clients wait, whichever needs more replicas.

    A request takes as many of an ingress's slots (`admission.max_images`) as it has images, so some large ones fill
    them. There are as many replicas as keep the share `full` of their slots in use on average: a burst has the rest
    while another one starts.
    """

    def __init__(self, full: float = 0.5, spare: float = SPARE) -> None:
        super().__init__(spare)
        if not 0 < full <= 1:
            raise ValueError(f"full is a share above 0 to 1, not {full}")
        self._full = full

    def work(self, context: Context) -> float:
        """Requests; where images fill more of the replicas, as many requests as would fill as much."""
        shares = (context.aggregated_metrics or {}).get(SLOTS, {})
        per_replica: float = context.config.get_target_ongoing_requests()
        return max(context.total_num_requests, per_replica * sum(shares.values()) / self._full)


class RowsPolicy(DemandPolicy):
    """For `AvatarGenerator`: images queued at callers or in engines, and images being generated."""

    def work(self, context: Context) -> float:
        """The larger of Serve's count of the images and the generators' own, with those that are queued at handles."""
        reported = (context.aggregated_metrics or {}).get(ROWS, {})
        # Serve's request counts are the same images. Either count may lag; the larger one is safe.
        return max(context.total_num_requests, context.total_queued_requests + sum(reported.values()))


class SteadyRowsPolicy(RowsPolicy):
    """For `AvatarGenerator` under a load that lasts: by the images of some minutes, not of a moment.

    A replica has `rows` images, running and waiting, on average over `window_s` (an exponentially weighted mean). What
    piles up while replicas start is cut off (`CLIP`), else it would bring more of them than the load needs. A burst
    does not wait for the mean: with `BURST` times `target_ongoing_requests` images a replica, there are as many as
    `RowsPolicy` has. One replica or none is up to `RowsPolicy`, too, so that the last one goes when nobody asks.

    The mean is in the state that Serve's controller keeps. A controller that starts anew has none; the mean begins then
    with what the replicas should have that it aims for, so their number changes only as far as the load asks for it.
    """

    def __init__(self, rows: float = 2.0, window_s: float = 300.0, spare: float = 0.05) -> None:
        super().__init__(spare)
        if rows <= 0 or window_s <= 0:
            raise ValueError(f"rows and window_s are above 0, not {rows} and {window_s}")
        self._rows = rows
        self._window_s = window_s

    def __call__(self, context: Context) -> tuple[int, dict[str, Any]]:
        """The number of replicas for Serve's controller, and the mean so far."""
        work, now = self.work(context), context.target_num_replicas
        mean = self._mean(context, work)
        state = {MEAN: mean, SEEN_AT: context.current_time}
        steady, at_once = replicas_for(mean, self._rows, now, self._spare), context.config.get_target_ongoing_requests()
        if steady > 1 and work <= BURST * at_once * now:
            return steady, state
        return max(steady if steady > 1 else 0, replicas_for(work, at_once, now, self._spare)), state

    def _mean(self, context: Context, work: float) -> float:
        before = context.policy_state.get(MEAN, self._rows * context.target_num_replicas)
        passed_s = max(0.0, context.current_time - context.policy_state.get(SEEN_AT, context.current_time))
        weight = 1 - math.exp(-passed_s / self._window_s)
        counted = min(work, CLIP * self._rows * max(1, context.current_num_replicas))
        return float(before + (counted - before) * weight)

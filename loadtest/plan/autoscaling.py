"""Serve's autoscaler around the service's policies, in simulated time."""

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from ray.serve._private.autoscaling_state import _resolve_policy_callable
from ray.serve._private.common import DeploymentID
from ray.serve.autoscaling_policy import (
    _apply_delay_logic,
    _apply_scaling_factors,
    _extract_internal_policy_state,
    _get_cold_start_scale_up_replicas,
)
from ray.serve.config import AutoscalingConfig, AutoscalingContext

Policy = Callable[[Any], tuple[int | float, dict[str, Any]]]


class TimeMean:
    """The mean over time of a count that changes in jumps, over the time since so many calls of `take` ago."""

    def __init__(self, takes: int = 1) -> None:
        self.value = 0
        self._taken: deque[tuple[float, float]] = deque(maxlen=takes)  # areas and seconds between the last calls
        self._changed_at = self._since = 0.0
        self._area = 0.0  # since `_since`, up to `_changed_at`

    def add(self, change: int, now: float) -> None:
        """The count changes by `change`."""
        self._area += self.value * (now - self._changed_at)
        self._changed_at = now
        self.value += change

    def take(self, now: float) -> float:
        """The mean up to now."""
        self.add(0, now)
        self._taken.append((self._area, now - self._since))
        self._since, self._area = now, 0.0
        areas, seconds = map(sum, zip(*self._taken, strict=True))
        return areas / seconds if seconds else float(self.value)


class Autoscaler:
    """How many replicas of a deployment Serve aims for.

    As `ray.serve.autoscaling_policy._apply_autoscaling_config` of Ray 2.60, which reads the clock of the machine: here
    `now` is given. The bounds are those of the config.
    """

    def __init__(self, name: str, config: AutoscalingConfig) -> None:
        self.config = config
        self.target: int = config.initial_replicas if config.initial_replicas is not None else config.min_replicas
        self._id = DeploymentID(name=name)
        self._policy: Policy = _resolve_policy_callable(config.policy)
        self._state: dict[str, Any] = {}

    @property
    def look_back_s(self) -> float:
        """Seconds over which load is averaged; those between two decisions here about ingresses and workers."""
        return float(self.config.look_back_period_s)

    @property
    def report_s(self) -> float:
        """Seconds between two reports of the load, and so between two decisions here about generators.

        Serve decides ten times a second, but knows no more between two reports.
        """
        return min(float(self.config.metrics_interval_s), self.look_back_s)

    def sliding_mean(self) -> TimeMean:
        """Of a count that is taken with every report, over the look-back period."""
        return TimeMean(max(1, round(self.look_back_s / self.report_s)))

    def decide(
        self, now: float, running: int, total: float, queued: float = 0.0, reported: dict[str, float] | None = None
    ) -> int:
        """The new `target`. `total` and `queued` are calls, means over the look-back period, `reported` by metric."""
        wanted = self._decide(self._context(now, running, total, queued, reported or {}), now)
        self.target = max(self.config.min_replicas, min(self.config.max_replicas, math.ceil(wanted)))
        return self.target

    def _decide(self, context: AutoscalingContext, now: float) -> float:
        cold: int | None = _get_cold_start_scale_up_replicas(context)
        if cold is not None:
            return cold
        desired, kept = self._policy(context)
        delays = _extract_internal_policy_state(self._state)
        scaled: int = _apply_scaling_factors(desired, context.current_num_replicas, context.config)
        decided = scaled
        if context.current_num_replicas > 0 or scaled <= 0:
            decided, delays = _apply_delay_logic(
                max(0, scaled), context.target_num_replicas, context.config, delays, _now=now
            )
        self._state = kept | delays
        return decided

    def _context(
        self, now: float, running: int, total: float, queued: float, reported: dict[str, float]
    ) -> AutoscalingContext:
        return AutoscalingContext(
            deployment_id=self._id,
            deployment_name=self._id.name,
            app_name=self._id.app_name,
            current_num_replicas=running,
            target_num_replicas=self.target,
            running_replicas=[],
            total_num_requests=total,
            total_queued_requests=queued,
            aggregated_metrics={name: {"": value} for name, value in reported.items()},
            raw_metrics={},
            capacity_adjusted_min_replicas=self.config.min_replicas,
            capacity_adjusted_max_replicas=self.config.max_replicas,
            policy_state=dict(self._state),
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=now,
            config=self.config,
        )

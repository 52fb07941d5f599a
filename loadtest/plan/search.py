"""The cheapest settings of the generator's autoscaler that meet a target, by trying one change after another."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from loadtest.plan.answers import Figures
from loadtest.plan.service import Service

FACTORS = (0.5, 0.75, 1.5, 2.0)
DOWNSCALE_DELAYS_S = (60.0, 120.0, 300.0, 600.0, 1200.0)
SPARES = (0.0, 0.1, 0.2, 0.4)
POLICY_KWARGS: Mapping[str, Mapping[str, Sequence[float]]] = {  # that are tried, by the name of the policy
    "RowsPolicy": {"spare": SPARES},
    "SteadyRowsPolicy": {"spare": SPARES, "rows": (1.0, 1.5, 2.0, 2.5, 3.0), "window_s": (120.0, 300.0, 600.0)},
}
GENERATOR = "AvatarGenerator"

Evaluate = Callable[[Service], Figures]


@dataclass(frozen=True, slots=True)
class Target:
    """A percentile of the latency of synchronous requests below some seconds, and how many images may fail."""

    percentile: str  # p50, p95 or p99
    below_s: float
    failed_share: float

    @classmethod
    def parse(cls, text: str, failed_share: float) -> "Target":
        """From `p95<10s`. Raises: ValueError."""
        found = re.fullmatch(r"\s*(p50|p95|p99)\s*<\s*(\d+(?:\.\d+)?)\s*s?\s*", text)
        if found is None:
            raise ValueError(f"{text!r} is not a target such as p95<10s, of p50, p95 or p99")
        return cls(found[1], float(found[2]), failed_share)

    @property
    def share(self) -> float:
        """The share of requests that the percentile is of."""
        return int(self.percentile[1:]) / 100

    def miss(self, figures: Figures) -> float:
        """How many times too much, of the worse of both; at most 1 where the target is met."""
        latency = figures.synchronous if figures.synchronous.p95_s is not None else figures.queued
        reached_s = getattr(latency, f"{self.percentile}_s")
        late = float("inf") if reached_s is None else reached_s / self.below_s
        return max(late, figures.failed_share / max(self.failed_share, 1e-9))

    def rank(self, figures: Figures) -> tuple[float, float]:
        """Smaller is better: first to meet it, then to cost less."""
        return max(1.0, self.miss(figures)), figures.cost


@dataclass(frozen=True, slots=True)
class Found:
    """The best settings of a search, their figures, and how many were tried."""

    service: Service
    figures: Figures
    tried: int
    is_exhausted: bool  # no single change is better; false where the time was over before

    @property
    def as_yaml(self) -> str:
        """The generator's `autoscaling_config` for a config file."""
        config = self.service.scaling[GENERATOR]
        names = ("min_replicas", "max_replicas", "target_ongoing_requests", "downscale_delay_s")
        values: dict[str, Any] = {name: getattr(config, name) for name in names}
        values["policy"] = {
            "policy_function": config.policy.policy_function,
            "policy_kwargs": dict(config.policy.policy_kwargs),
        }
        return str(yaml.safe_dump([{"name": GENERATOR, "autoscaling_config": values}], sort_keys=False))


def cheapest(
    start: Service, target: Target, evaluate: Evaluate, until: float, clock: Callable[[], float] = time.monotonic
) -> Found:
    """Take the best of all single changes, again and again, until none is better or `until` has come on the clock."""
    best, figures = start, evaluate(start)
    known = {_key(start)}
    tried, is_exhausted = 1, False
    while not is_exhausted and clock() < until:
        is_exhausted = True
        for candidate in list(_neighbours(best)):
            if _key(candidate) in known:
                continue
            if clock() >= until:
                return Found(best, figures, tried, is_exhausted=False)
            known.add(_key(candidate))
            tried += 1
            found = evaluate(candidate)
            if target.rank(found) < target.rank(figures):
                best, figures, is_exhausted = candidate, found, False
    return Found(best, figures, tried, is_exhausted)


def _neighbours(service: Service) -> Iterator[Service]:
    config = service.scaling[GENERATOR]
    least = config.min_replicas
    for replicas in {least - 1, least + 1, 2 * least, least // 2, 0}:
        if 0 <= replicas <= config.max_replicas and replicas != least:
            yield service.with_generator_changes({"min_replicas": replicas})
    for factor in FACTORS:
        yield service.with_generator_changes({"target_ongoing_requests": config.get_target_ongoing_requests() * factor})
    for delay_s in DOWNSCALE_DELAYS_S:
        yield service.with_generator_changes({"downscale_delay_s": delay_s})
    function, kwargs = config.policy.policy_function, config.policy.policy_kwargs
    for name, values in POLICY_KWARGS.get(function.rpartition(":")[2], {}).items():
        for value in values:
            policy = {"policy_function": function, "policy_kwargs": kwargs | {name: value}}
            yield service.with_generator_changes({"policy": policy})


def _key(service: Service) -> str:
    return str(service.scaling[GENERATOR].model_dump_json())

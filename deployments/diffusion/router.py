"""Routes requests to generator replicas by what an image would wait for there: the images before it, or its model."""

import math
import time
from collections.abc import Callable, Container, Sequence
from random import Random
from typing import Any, NamedTuple, TypeVar

from ray.serve.request_router import FIFOMixin, MultiplexMixin, PendingRequest, RequestRouter, RunningReplica

from deployments.diffusion.routing_stats import STATS_PERIOD_S, RoutingStats

NEWS_AFTER_S = 2.5 * STATS_PERIOD_S  # then a report is here that knows of a model that was asked for
ASKED_AT_ONCE = 2  # power of two choices
# An idle replica loads a model where images would wait so many times as long at those that have it: the wait is an
# estimate, and the load may evict a model that is asked for next.
SPREAD = 1.5
RANDOM = Random()

R = TypeVar("R")


class Standing(NamedTuple):
    """What is known of a replica that an image of a model may go to."""

    rows: int  # images there
    row_s: float  # seconds of the device for one of them; 0: unknown
    load_s: float  # of the model; infinite: unknown
    is_loading: bool  # the model is on its way into memory


class ModelRouter(FIFOMixin, MultiplexMixin, RequestRouter):  # type: ignore[misc]  # ray has no types
    """For handles that pass the model of a request as `multiplexed_model_id`.

    Power of two choices within each group of replicas. The mixins let a chosen replica take any waiting request of the
    same model: without them, Serve knows all requests of one parent request by one id, and would route only one.
    """

    def initialize_state(self, **kwargs: Any) -> None:
        """Called by Serve before the first request."""
        super().initialize_state(**kwargs)
        self._begun_at: dict[tuple[Any, str], float] = {}  # loads that this router began, by replica and model

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Groups of replicas, best first; Serve tries the next where none of a group accepts the request."""
        model = pending_request.metadata.multiplexed_model_id if pending_request else ""
        now = time.monotonic()
        self._begun_at = {load: at for load, at in self._begun_at.items() if now - at < NEWS_AFTER_S}
        groups = groups_to_ask(
            candidate_replicas,
            model,
            lambda each: _stats(each).models,
            lambda each: self._standing(each, model),
            RANDOM,
        )
        for each in groups[0] if groups else ():
            if model not in _stats(each).models:
                self._begun_at.setdefault((each.replica_id, model), now)
        return groups

    def _standing(self, replica: RunningReplica, model: str) -> Standing:
        stats = _stats(replica)
        rows = self.replica_queue_len_cache.get(replica.replica_id) or 0  # unknown: not asked for seconds
        is_loading = model in stats.loading or (replica.replica_id, model) in self._begun_at
        return Standing(rows, stats.row_s, stats.loads_s.get(model, math.inf), is_loading)


def groups_to_ask(
    replicas: Sequence[R],
    model: str,
    models_of: Callable[[R], Container[str]],
    standing_of: Callable[[R], Standing],
    random: Random,
) -> list[list[R]]:
    """Groups of at most two replicas, best first; those that would be empty are left out.

    Replicas that have the model come first, and those that load it where an image waits less there, load included. One
    that is idle comes before them where all of them would let it wait longer than `SPREAD` times its load takes, else
    after them: alone, as two would both load it. Those that draw other models are last.
    """
    ready = [each for each in replicas if model in models_of(each)]
    if len(ready) == len(replicas):
        groups = [ready]
    else:
        have_model = set(map(id, ready))
        others = [each for each in replicas if id(each) not in have_model]
        groups = _ranked(ready, others, standing_of, random)
    return [random.sample(group, min(ASKED_AT_ONCE, len(group))) for group in groups if group]


def _ranked(ready: list[R], others: list[R], standing_of: Callable[[R], Standing], random: Random) -> list[list[R]]:
    known, unknown = [standing_of(each) for each in ready], [standing_of(each) for each in others]
    usual_s = max(each.row_s for each in (*known, *unknown))  # for those that have drawn nothing yet

    def wait_s(standing: Standing) -> float:
        return standing.rows * (standing.row_s or usual_s)

    loading, idle, busy, loading_s, load_s = [], [], [], math.inf, math.inf
    for each, standing in zip(others, unknown, strict=True):
        if standing.is_loading:
            loading.append(each)
            loading_s = min(loading_s, wait_s(standing) + standing.load_s)
        elif not standing.rows:
            idle.append(each)
            load_s = min(load_s, standing.load_s)
        else:
            busy.append(each)
    ready_s = min(map(wait_s, known), default=math.inf)
    one_idle = random.sample(idle, min(1, len(idle)))
    having = [ready, loading] if ready_s <= loading_s else [loading, ready]
    return [one_idle, *having, busy] if min(ready_s, loading_s) > SPREAD * load_s else [*having, one_idle, busy]


def _stats(replica: RunningReplica) -> RoutingStats:
    return RoutingStats(**replica.routing_stats)

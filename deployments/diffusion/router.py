"""Which generator replica gets a request: one that has its model in memory, while there is one that takes it."""

import random
from collections.abc import Sequence

from ray.serve.request_router import FIFOMixin, MultiplexMixin, PendingRequest, RequestRouter, RunningReplica

STATS_KEY = "models"


class ModelRouter(FIFOMixin, MultiplexMixin, RequestRouter):  # type: ignore[misc]  # ray has no types
    """For handles that name the model of a request as `multiplexed_model_id`.

    Of each group of replicas two are asked for the length of their queues, and the shorter one is taken. The mixins let
    a replica that was chosen take any waiting request of the same model: without them, Serve knows the requests of one
    parent request by one id, and would route one of them alone.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Groups of replicas, the best first; the next is tried where none of a group takes the request."""
        model = pending_request.metadata.multiplexed_model_id if pending_request else ""
        ready = [each for each in candidate_replicas if model in each.routing_stats.get(STATS_KEY, ())]
        others = [each for each in candidate_replicas if each not in ready]
        return [group for group in (_two_of(ready), _two_of(others)) if group]


def _two_of(replicas: Sequence[RunningReplica]) -> list[RunningReplica]:
    return random.sample(replicas, min(2, len(replicas)))

"""Routes requests to generator replicas that have the model in memory, as long as one of them accepts."""

import random
from collections.abc import Sequence

from ray.serve.request_router import FIFOMixin, MultiplexMixin, PendingRequest, RequestRouter, RunningReplica

STATS_KEY = "models"


class ModelRouter(FIFOMixin, MultiplexMixin, RequestRouter):  # type: ignore[misc]  # ray has no types
    """For handles that pass the model of a request as `multiplexed_model_id`.

    Power of two choices within each group of replicas. The mixins let a chosen replica take any waiting request of the
    same model: without them, Serve knows all requests of one parent request by one id, and would route only one.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Groups of replicas, best first; Serve tries the next where none of a group accepts the request."""
        model = pending_request.metadata.multiplexed_model_id if pending_request else ""
        ready = [each for each in candidate_replicas if model in each.routing_stats.get(STATS_KEY, ())]
        others = [each for each in candidate_replicas if each not in ready]
        return [group for group in (_two_of(ready), _two_of(others)) if group]


def _two_of(replicas: Sequence[RunningReplica]) -> list[RunningReplica]:
    return random.sample(replicas, min(2, len(replicas)))

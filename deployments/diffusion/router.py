"""Routes requests to generator replicas that have the model in memory, as long as one of them accepts."""

from collections.abc import Callable, Container, Sequence
from random import Random
from typing import TypeVar

from ray.serve.request_router import FIFOMixin, MultiplexMixin, PendingRequest, RequestRouter, RunningReplica

STATS_KEY = "models"
ASKED_AT_ONCE = 2  # power of two choices
RANDOM = Random()

R = TypeVar("R")


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
        return groups_to_ask(candidate_replicas, model, lambda each: each.routing_stats.get(STATS_KEY, ()), RANDOM)


def groups_to_ask(
    replicas: Sequence[R], model: str, models_of: Callable[[R], Container[str]], random: Random
) -> list[list[R]]:
    """Two replicas that have the model in memory, then two of the others; groups that would be empty are left out."""
    ready = [each for each in replicas if model in models_of(each)]
    others = [each for each in replicas if each not in ready] if len(ready) < len(replicas) else []
    return [random.sample(group, min(ASKED_AT_ONCE, len(group))) for group in (ready, others) if group]

"""Gauges of the queue and of the broker's memory.

Every worker reports the same values: aggregate them with `max`, never with `sum`.
"""

from typing import NamedTuple

from ray.serve import metrics

from serve_app.backends.broker_memory import read_memory
from serve_app.backends.redis import Redis
from serve_app.batches.waiting import WaitingRequests
from serve_app.generation.queue_eta import Forecast
from serve_app.tasks.keys import TaskKeys
from serve_app.tasks.queue_snapshot import QueueReader


class QueueState(NamedTuple):
    """`eta_s`: seconds until an image of normal priority queued now would be done; None: unknown."""

    waiting: int
    running: int
    dead: int
    webhooks_due: int
    eta_s: float | None


class QueueMetrics:
    """The periodic task that sets the gauges; every worker runs it."""

    name = "queue metrics"
    every_s = 5.0  # Ray forgets a gauge that was not set for 20 s

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._batch_requests = WaitingRequests(redis)
        self._keys = TaskKeys(redis.prefix)
        self._queue = QueueReader(redis)
        self._count = metrics.Gauge("avatar_queue_tasks", "Queued tasks by state; dead: given up.", ("state",))
        self._batched = metrics.Gauge("avatar_batch_requests_waiting", "Requests of batches that are not queued yet.")
        self._webhooks = metrics.Gauge("avatar_webhooks_due", "Webhooks that are still to be called.")
        self._memory = metrics.Gauge("avatar_broker_memory_bytes", "Memory of the broker: used, max.", ("kind",))
        self._eta_s = metrics.Gauge("avatar_queue_eta_seconds", "Until an image queued now would be done.")

    async def run_once(self) -> None:
        """Set the gauges. Raises: BrokerError."""
        state = await self.state()
        for name, count in (("waiting", state.waiting), ("running", state.running), ("dead", state.dead)):
            self._count.set(count, {"state": name})
        self._batched.set(await self._batch_requests.count())
        self._webhooks.set(state.webhooks_due)
        memory = await read_memory(self._redis)
        self._memory.set(memory.used_bytes, {"kind": "used"})
        if memory.max_bytes:
            self._memory.set(memory.max_bytes, {"kind": "max"})
        if state.eta_s is not None:
            self._eta_s.set(state.eta_s)

    async def state(self) -> QueueState:
        """Raises: BrokerError."""
        queue = await self._queue.snapshot()
        forecast = Forecast.of(queue)
        eta_s = None if forecast is None else forecast.done_s(queue.next_position("normal"), images=1)
        return QueueState(
            waiting=max(0, queue.length - queue.running),  # a cancelled task counts as running until its worker lets go
            running=queue.running,
            dead=int(await self._redis.zcard(self._keys.dead)),
            webhooks_due=int(await self._redis.zcard(self._keys.webhooks)),
            eta_s=eta_s,
        )

"""Cold starts as an ingress sees them: which stages have no replica, and how long they take to start.

A synchronous request would wait for a GPU node and for weights. Instead the stage is scaled up from zero, and the
client is told when to retry.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import DeploymentStatus, DeploymentStatusTrigger, ReplicaState

from deployments.types import FaceEmbedding, Photo
from serve_app.backends.redis import Redis
from serve_app.errors import MAX_RETRY_AFTER_S, BrokerError, OverloadedError
from serve_app.pipeline.calls import detach
from serve_app.pipeline.pipeline import AvatarPipeline

POLL_EVERY_S = 2.0
FRESH_S = 0.5  # before a refusal, an older state is fetched again: the stage may be up by now
MAX_SCALE_UPS = 8  # calls that wait for stages, each of which keeps its photos in memory
COLD_STARTS = "cold-starts"  # a hash: seconds that the last cold start of each stage took
STALE_S = 10.0  # an older state refuses nothing: Serve's controller may be unavailable
# A controller that has just restarted does not know yet that its replicas still run.
SERVING = (ReplicaState.RUNNING, ReplicaState.UPDATING, ReplicaState.PENDING_MIGRATION, ReplicaState.RECOVERING)
FAILED = (DeploymentStatus.UNHEALTHY, DeploymentStatus.DEPLOY_FAILED)
SCALING = frozenset({"HEALTHY", "UPSCALING", "DOWNSCALING"})  # where a stage without a replica has none on purpose

log = logging.getLogger(__name__)


class StageState(NamedTuple):
    """The status of a stage in Serve, and the number of its replicas that serve and that are starting."""

    status: str
    serving: int
    starting: int


def fetch_stage_states(app_name: str) -> dict[str, StageState]:
    """All deployments of an application, by name. Blocks while Serve's controller is unavailable."""
    # `serve.status` fetches the same in fifty times the time: it pickles the router class of every deployment.
    client = _get_global_client(raise_if_no_controller_running=False)
    applications = client.get_serve_details()["applications"] if client is not None else {}
    return {
        name: _stage_state(details) for name, details in applications.get(app_name, {}).get("deployments", {}).items()
    }


def _stage_state(details: Mapping[str, Any]) -> StageState:
    """The state in the `ray.serve.schema.DeploymentDetails` of one deployment."""
    states = [ReplicaState(replica["state"]) for replica in details["replicas"]]
    serving = sum(state in SERVING for state in states)
    status = DeploymentStatus(details["status"])
    lost_one = DeploymentStatusTrigger(details["status_trigger"]) is DeploymentStatusTrigger.HEALTH_CHECK_FAILED
    if lost_one and serving and status in FAILED:
        # Serve keeps the status of a replica that died until it has all that it wants, which may be when a node comes.
        status = DeploymentStatus.UPSCALING
    return StageState(status=status.value, serving=serving, starting=states.count(ReplicaState.STARTING))


@dataclass(slots=True)
class Startup:
    """The start of a cold stage. `began_at` is when its first replica began to start, None while that is unknown."""

    from_zero: bool = False  # the stage was seen without any replica
    began_at: float | None = None


class ColdStages:
    """The stages that are cold, by their successive states. Times are seconds of one clock.

    A stage whose last replica died is not cold: it is replaced at once, and requests wait for it.
    """

    def __init__(self) -> None:
        self._cold: dict[str, Startup] = {}

    def update(self, states: Mapping[str, StageState], now: float) -> dict[str, float]:
        """Take new states; returns how many seconds the stages that have come up from zero since took, by name."""
        took = {}
        for name, state in states.items():
            if state.serving:
                start = self._cold.pop(name, None)
                if start is not None and start.began_at is not None:
                    took[name] = now - start.began_at
            elif name in self._cold or state.status in SCALING:
                start = self._cold.setdefault(name, Startup())
                if not state.starting:
                    start.from_zero = True
                elif start.from_zero and start.began_at is None:
                    start.began_at = now
        return took

    def waited_s(self, now: float) -> dict[str, float]:
        """The cold stages, and for how many seconds each has been starting."""
        return {name: 0.0 if start.began_at is None else now - start.began_at for name, start in self._cold.items()}


def start_left_s(names: Sequence[str], cold: Mapping[str, float], usual_s: Mapping[str, float]) -> float:
    """Seconds until the `cold` stages are up, each of which has been starting for so long; `usual_s` is a start's time.

    The first of `names` scales up the others, which begin only when it is there.
    """
    left_s = {name: max(usual_s[name] - waited_s, usual_s[name] / 10) for name, waited_s in cold.items()}
    before_s = left_s.get(names[0], 0.0)
    return max(seconds if name == names[0] or cold[name] else before_s + seconds for name, seconds in left_s.items())


class StageMonitor:
    """Polls the states of the stages, and refuses requests that would wait for a cold one. Lives on one event loop."""

    def __init__(
        self,
        fetch_states: Callable[[], Mapping[str, StageState]],
        names: Sequence[str],
        pipeline: AvatarPipeline,
        redis: Redis,
        usual_s: int,
    ) -> None:
        """`fetch_states` may block. `names` are the stages to monitor, the embedder's first.

        `usual_s` is assumed for a stage of which no cold start was measured.
        """
        self._fetch_states = fetch_states
        self._names = names
        self._pipeline = pipeline
        self._redis = redis
        self._usual_s = usual_s
        self._starts = ColdStages()
        self._polled_at = -math.inf
        self._poll_lock = asyncio.Lock()
        self._poller: asyncio.Task[None] | None = None
        self._scale_ups: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Start polling on the running event loop."""
        self._poller = asyncio.create_task(self._keep_polling())

    async def require_warm(self, photos: Sequence[Photo], face_model: str | None = None) -> None:
        """Refuse a request that needs a cold stage, and scale that up; the generator only for photos with a face.

        Raises: OverloadedError; NoFaceError and OtherPersonError, unless the embedder itself has no replica.
        """
        if not self._cold():
            return
        await self._poll(max_age_s=FRESH_S)
        cold = self._cold()
        if not cold:
            return
        if len(self._scale_ups) < MAX_SCALE_UPS:
            failure = "a stage is not scaled up"
            embedding = detach(self._pipeline.embed(photos, face_model=face_model), self._scale_ups, failure)
            detach(self._scale_up_after(embedding), self._scale_ups, failure)
            if self._names[0] not in cold:
                with contextlib.suppress(RayError, RayServeException):
                    await asyncio.shield(embedding)
        left_s = start_left_s(self._names, cold, await self._usual(list(cold)))
        names = " and ".join(sorted(cold))
        raise OverloadedError(f"{names} is being started.", min(max(math.ceil(left_s), 1), MAX_RETRY_AFTER_S))

    def close(self) -> None:
        """Stop polling, and cancel the calls that scale stages up from zero."""
        for task in (self._poller, *self._scale_ups):
            if task is not None:
                task.cancel()

    def _cold(self) -> dict[str, float]:
        now = time.monotonic()
        return self._starts.waited_s(now) if now - self._polled_at < STALE_S else {}

    async def _scale_up_after(self, embedding: asyncio.Task[FaceEmbedding]) -> None:
        await asyncio.wait({embedding})
        if not embedding.cancelled() and embedding.exception() is None:
            await self._pipeline.scale_from_zero()

    async def _keep_polling(self) -> None:
        while True:
            await self._poll()
            await asyncio.sleep(POLL_EVERY_S)

    async def _poll(self, max_age_s: float = 0.0) -> None:
        """Fetch the states of the stages, unless those at hand are younger than `max_age_s`."""
        async with self._poll_lock:  # or the older of two answers might come last
            if time.monotonic() - self._polled_at < max_age_s:
                return
            try:
                states = await asyncio.to_thread(self._fetch_states)
                self._polled_at = time.monotonic()
                monitored = {name: states[name] for name in self._names if name in states}
                for name, seconds in self._starts.update(monitored, self._polled_at).items():
                    log.info("%s came up from zero in %.1f s", name, seconds)
                    await self._redis.hset(self._redis.key(COLD_STARTS), name, str(round(seconds, 1)))
            except (RayError, RayServeException, BrokerError) as error:
                log.warning("the states of the stages are not updated: %s", error)

    async def _usual(self, names: list[str]) -> dict[str, float]:
        """Seconds that a cold start of each stage takes."""
        measured: Sequence[Any] = [None] * len(names)
        with contextlib.suppress(BrokerError):
            measured = await self._redis.hmget(self._redis.key(COLD_STARTS), names)
        return {
            name: float(self._usual_s if seconds is None else seconds)
            for name, seconds in zip(names, measured, strict=True)
        }

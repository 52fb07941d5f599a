"""The stages as an ingress sees them: which of them stand at zero replicas, and how long they take to come up.

A synchronous request would wait for a GPU node and for weights; its client is told when to come back instead, and the
stage is woken for it.
"""

import asyncio
import contextlib
import contextvars
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import DeploymentStatus, ReplicaState
from redis.asyncio import Redis

from deployments.errors import AvatarError
from deployments.types import FaceEmbedding, Photo
from serve_app.errors import MAX_RETRY_AFTER_S, BrokerError, OverloadedError
from serve_app.pipeline.pipeline import AvatarPipeline

LOOK_EVERY_S = 2.0
FRESH_S = 0.5  # whom a look would refuse that is older, gets another one: the stage may be up by now
MAX_WAKING = 8  # calls that wait for stages, which keep photos in memory
LOOK_LASTS_S = 10.0  # what was seen longer ago refuses nobody: Serve's controller may be away
# A controller that has just been started again does not know yet that its replicas still run.
SERVING = (ReplicaState.RUNNING, ReplicaState.UPDATING, ReplicaState.PENDING_MIGRATION, ReplicaState.RECOVERING)
SCALING = frozenset({"HEALTHY", "UPSCALING", "DOWNSCALING"})  # a stage without a replica is there on purpose

T = TypeVar("T")
log = logging.getLogger(__name__)


class StageState(NamedTuple):
    """What Serve says of a stage: its status, and how many of its replicas answer and start."""

    status: str
    serving: int
    starting: int


def look_at_stages(app_name: str) -> dict[str, StageState]:
    """All deployments of an application, by name. Blocks for as long as Serve's controller is away."""
    # `serve.status` asks for the same, and takes fifty times as long: it pickles the router class of every deployment.
    client = _get_global_client(raise_if_no_controller_running=False)
    applications = client.get_serve_details()["applications"] if client is not None else {}
    return {
        name: _stage_state(details) for name, details in applications.get(app_name, {}).get("deployments", {}).items()
    }


def _stage_state(details: Mapping[str, Any]) -> StageState:
    """Of one deployment, as `ray.serve.schema.DeploymentDetails` describes it."""
    states = [ReplicaState(replica["state"]) for replica in details["replicas"]]
    return StageState(
        status=DeploymentStatus(details["status"]).value,
        serving=sum(state in SERVING for state in states),
        starting=states.count(ReplicaState.STARTING),
    )


@dataclass(slots=True)
class ComingUp:
    """A stage on its way up; `began_at`, when its first replica began to start, is None until then, or where unseen."""

    from_zero: bool = False  # it was seen without any replica
    began_at: float | None = None


class ColdStages:
    """Which stages are cold, from one look at them to the next. Times are seconds of one clock.

    One whose last replica died is not: it is replaced at once, and whoever needs it waits.
    """

    def __init__(self) -> None:
        self._cold: dict[str, ComingUp] = {}

    def see(self, states: Mapping[str, StageState], now: float) -> dict[str, float]:
        """Take in how the stages are; gives the seconds that those needed which have come up from zero since."""
        took = {}
        for name, state in states.items():
            if state.serving:
                start = self._cold.pop(name, None)
                if start is not None and start.began_at is not None:
                    took[name] = now - start.began_at
            elif name in self._cold or state.status in SCALING:
                start = self._cold.setdefault(name, ComingUp())
                if not state.starting:
                    start.from_zero = True
                elif start.from_zero and start.began_at is None:
                    start.began_at = now
        return took

    def waited_s(self, now: float) -> dict[str, float]:
        """The stages that are cold, and for how long each has been coming up."""
        return {name: 0.0 if start.began_at is None else now - start.began_at for name, start in self._cold.items()}


class StageMonitor:
    """Looks at the stages now and then, and refuses what would wait for one to come up. Lives on one event loop."""

    def __init__(
        self,
        look: Callable[[], Mapping[str, StageState]],
        names: Sequence[str],
        pipeline: AvatarPipeline,
        redis: Redis,
        key: str,
        usual_s: int,
    ) -> None:
        """`look` may block; only the stages with these `names` count of what it sees, the embedder's first.

        How long cold starts took is kept under `key`; `usual_s` is taken for a stage whose none was measured.
        """
        self._look = look
        self._names = names
        self._pipeline = pipeline
        self._redis = redis
        self._key = key
        self._usual_s = usual_s
        self._starts = ColdStages()
        self._looked_at = -math.inf
        self._one_looks = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None
        self._waking: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Begin to look, on the event loop that runs."""
        self._looking = asyncio.create_task(self._keep_looking())

    async def require_warm(self, photo: Photo) -> None:
        """Where a stage has no replica, it gets one: those after the embedder only if the photo has a face.

        Raises: OverloadedError; NoFaceError, unless the embedder itself has no replica.
        """
        if not self._cold():
            return
        await self._look_again()
        cold = self._cold()
        if not cold:
            return
        if len(self._waking) < MAX_WAKING:
            embedding = self._detach(self._pipeline.embed(photo))
            self._detach(self._wake_after(embedding))
            if self._names[0] not in cold:
                with contextlib.suppress(RayError, RayServeException):
                    await asyncio.shield(embedding)
        usual_s = await self._usual(list(cold))
        left_s = max(max(usual_s[name] - waited_s, usual_s[name] / 10) for name, waited_s in cold.items())
        names = " and ".join(sorted(cold))
        raise OverloadedError(f"{names} is being started.", min(max(math.ceil(left_s), 1), MAX_RETRY_AFTER_S))

    def close(self) -> None:
        for task in (self._looking, *self._waking):
            if task is not None:
                task.cancel()

    def _cold(self) -> dict[str, float]:
        now = time.monotonic()
        return self._starts.waited_s(now) if now - self._looked_at < LOOK_LASTS_S else {}

    async def _wake_after(self, embedding: asyncio.Task[FaceEmbedding]) -> None:
        await asyncio.wait({embedding})
        if not embedding.cancelled() and embedding.exception() is None:
            await self._pipeline.scale_from_zero()

    def _detach(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work that goes on when whoever began it is answered."""
        # In a context of its own: Serve cancels the calls that were made in the context of a cancelled request.
        task = asyncio.create_task(work, context=contextvars.Context())
        self._waking.add(task)
        task.add_done_callback(self._woken)
        return task

    def _woken(self, task: asyncio.Task[Any]) -> None:
        self._waking.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, AvatarError):
            log.warning("a stage is not woken: %s", error)

    async def _keep_looking(self) -> None:
        while True:
            try:
                async with self._one_looks:  # or the older of two looks may come last
                    await self._look_once()
            except (RayError, RayServeException, BrokerError) as error:
                log.warning("the stages are not looked at: %s", error)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look_again(self) -> None:
        async with self._one_looks:
            if time.monotonic() - self._looked_at > FRESH_S:
                with contextlib.suppress(RayError, RayServeException, BrokerError):
                    await self._look_once()

    async def _look_once(self) -> None:
        states = await asyncio.to_thread(self._look)
        self._looked_at = time.monotonic()
        ours = {name: states[name] for name in self._names if name in states}
        for name, seconds in self._starts.see(ours, self._looked_at).items():
            log.info("%s came up from zero in %.1f s", name, seconds)
            await self._redis.hset(self._key, name, str(round(seconds, 1)))

    async def _usual(self, names: list[str]) -> dict[str, float]:
        measured: Sequence[Any] = [None] * len(names)
        with contextlib.suppress(BrokerError):
            measured = await self._redis.hmget(self._key, names)
        return {
            name: float(self._usual_s if seconds is None else seconds)
            for name, seconds in zip(names, measured, strict=True)
        }

"""What is made of stages that stand at zero replicas. Redis is real, Serve is told of."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.errors import NoFaceError
from deployments.types import Photo
from serve_app.backends.redis import BrokerSettings, connect
from serve_app.errors import OverloadedError
from serve_app.pipeline import cold_start as stages
from serve_app.pipeline.cold_start import (
    MAX_SCALE_UPS,
    ColdStages,
    StageMonitor,
    StageState,
    _stage_state,
    start_left_s,
)
from tests.support.polling import eventually

PHOTO = Photo(np.zeros((8, 8, 3), np.uint8))
USUAL_S = 90
KEY = "face-avatar:cold-starts"
ZERO = StageState("HEALTHY", serving=0, starting=0)
STARTING = StageState("UPSCALING", serving=0, starting=1)
UP = StageState("HEALTHY", serving=1, starting=0)


def see(*looks: StageState) -> tuple[dict[str, float], list[float]]:
    """What is cold at the end, and what every look measured, one a second."""
    starts = ColdStages()
    took = [starts.update({"stage": state}, float(second)).get("stage", 0.0) for second, state in enumerate(looks)]
    return starts.waited_s(float(len(looks) - 1)), took


@pytest.mark.parametrize(
    ("status", "trigger", "replicas", "told"),
    [
        # One of two replicas was killed, and no place is free for another.
        ("UNHEALTHY", "HEALTH_CHECK_FAILED", ["RUNNING", "STARTING"], "UPSCALING"),
        ("UNHEALTHY", "HEALTH_CHECK_FAILED", ["RUNNING", "STOPPING"], "UPSCALING"),
        ("DEPLOY_FAILED", "HEALTH_CHECK_FAILED", ["RUNNING", "STARTING"], "UPSCALING"),  # the same amid an update
        ("UNHEALTHY", "HEALTH_CHECK_FAILED", ["STARTING"], "UNHEALTHY"),
        ("UNHEALTHY", "HEALTH_CHECK_FAILED", [], "UNHEALTHY"),
        ("DEPLOY_FAILED", "REPLICA_STARTUP_FAILED", ["RUNNING", "STARTING"], "DEPLOY_FAILED"),
        ("UNHEALTHY", "INTERNAL_ERROR", ["RUNNING"], "UNHEALTHY"),
        ("HEALTHY", "CONFIG_UPDATE_COMPLETED", ["RUNNING"], "HEALTHY"),
    ],
)
def test_a_stage_that_serves_is_not_unhealthy_because_a_replica_was_lost(
    status: str, trigger: str, replicas: list[str], told: str
) -> None:
    details = {"status": status, "status_trigger": trigger, "replicas": [{"state": state} for state in replicas]}
    assert _stage_state(details).status == told


def test_a_stage_at_zero_is_cold_and_has_waited_for_nothing() -> None:
    assert see(ZERO, ZERO)[0] == {"stage": 0}


def test_a_stage_that_comes_up_is_cold_and_has_waited_since_its_replica_began() -> None:
    assert see(ZERO, STARTING, STARTING, STARTING)[0] == {"stage": 2}


def test_what_it_took_is_measured_once_when_it_is_up() -> None:
    assert see(ZERO, ZERO, STARTING, STARTING, STARTING, UP, UP) == ({}, [0, 0, 0, 0, 0, 3, 0])


def test_a_start_whose_beginning_nobody_saw_is_not_measured() -> None:
    assert see(STARTING, STARTING) == ({"stage": 0}, [0, 0])
    assert see(STARTING, STARTING, UP) == ({}, [0, 0, 0])


def test_a_start_that_was_given_up_unseen_does_not_keep_the_next_from_being_measured() -> None:
    assert see(STARTING, ZERO, STARTING, STARTING, UP) == ({}, [0, 0, 0, 0, 2])


def test_a_start_that_fails_and_begins_again_is_one() -> None:
    failed = StageState("UNHEALTHY", serving=0, starting=0)
    assert see(ZERO, STARTING, failed, STARTING, UP) == ({}, [0, 0, 0, 0, 3])


@pytest.mark.parametrize("status", ["UNHEALTHY", "UPDATING", "DEPLOY_FAILED"])
def test_a_stage_whose_replica_died_or_is_replaced_is_not_cold(status: str) -> None:
    assert see(UP, StageState(status, serving=0, starting=1))[0] == {}
    assert see(UP, StageState(status, serving=0, starting=0))[0] == {}


def test_a_stage_that_just_went_is_cold() -> None:
    assert see(UP, StageState("DOWNSCALING", serving=0, starting=0))[0] == {"stage": 0}


@pytest.mark.parametrize(
    ("cold", "left_s"),
    [
        ({"face": 0, "generator": 0}, 20 + 100),
        ({"face": 15, "generator": 0}, 5 + 100),
        ({"face": 5, "generator": 5}, 95),  # both are starting
        ({"generator": 0}, 100),
        ({"generator": 400}, 10),
        ({"face": 19.5}, 2),
    ],
)
def test_a_stage_that_begins_after_another_one_is_waited_for_after_it(cold: dict[str, float], left_s: float) -> None:
    assert start_left_s(["face", "generator"], cold, {"face": 20, "generator": 100}) == left_s


class Pipeline:
    """Stages that answer when they are let; remembers what was asked of them."""

    def __init__(self, *, face: bool = True) -> None:
        self.asked: list[str] = []
        self.embedder_is_up = asyncio.Event()
        self.embedder_is_up.set()
        self._face = face

    async def embed(self, photos: Sequence[Photo], face_model: str | None = None) -> None:
        assert photos == [PHOTO]
        self.asked.append("face" if face_model is None else f"face by {face_model}")
        await self.embedder_is_up.wait()
        if not self._face:
            raise NoFaceError("There is no face.")

    async def scale_from_zero(self) -> None:
        self.asked.append("generator")
        await asyncio.Event().wait()


class Watched:
    """A watch over two stages, which are as `states` says."""

    def __init__(
        self, data_dir: Path, pipeline: Pipeline, *, face: StageState = UP, generator: StageState = UP
    ) -> None:
        self.states = {"Face": face, "Generator": generator, "Other": ZERO}
        self.looks = 0
        self.away = threading.Event()
        self.redis = connect(BrokerSettings(), data_dir)
        names = ["Face", "Generator"]
        self.watch = StageMonitor(self._look, names, pipeline, self.redis, USUAL_S)  # type: ignore[arg-type]

    def _look(self) -> dict[str, StageState]:
        if self.away.is_set():
            raise stages.RayServeException("the controller is away")
        self.looks += 1
        return self.states

    async def look_again(self) -> None:
        enough = self.looks + 2  # the one that runs may have begun before
        await eventually(lambda: self._seen(enough))

    async def _seen(self, enough: int) -> bool:
        return self.looks >= enough

    async def refused_s(self) -> int:
        """The `Retry-After` of a request."""
        with pytest.raises(OverloadedError) as caught:
            await self.watch.require_warm([PHOTO])
        return caught.value.retry_after_s


@pytest.fixture
def at(valkey: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(stages, "POLL_EVERY_S", 0.02)

    def run(scenario: Callable[[Watched], Awaitable[None]], pipeline: Callable[[], Pipeline], **states: Any) -> None:
        async def all_of_it() -> None:
            watched = Watched(valkey, pipeline(), **states)
            await watched.redis.delete(KEY)
            watched.watch.start()
            await watched.look_again()
            try:
                await scenario(watched)
            finally:
                watched.watch.close()
                await watched.redis.aclose()

        asyncio.run(all_of_it())

    return run


def test_what_is_warm_is_asked_for_nothing(at: Callable[..., None]) -> None:
    async def scenario(watched: Watched) -> None:
        await watched.watch.require_warm([PHOTO])
        assert watched.watch._pipeline.asked == []  # type: ignore[attr-defined]

    at(scenario, Pipeline)


def test_a_request_at_zero_is_refused_and_wakes_the_stage_after_its_face_was_seen(at: Callable[..., None]) -> None:
    async def scenario(watched: Watched) -> None:
        assert await watched.refused_s() == USUAL_S
        await eventually(lambda: _asked(watched, ["face", "generator"]))

    at(scenario, Pipeline, generator=ZERO)


def test_a_photo_without_a_face_is_told_so_and_wakes_nothing(at: Callable[..., None]) -> None:
    async def scenario(watched: Watched) -> None:
        with pytest.raises(NoFaceError):
            await watched.watch.require_warm([PHOTO])
        await watched.look_again()
        assert await _asked(watched, ["face"])

    at(scenario, lambda: Pipeline(face=False), generator=ZERO)


def test_without_an_embedder_nobody_waits_for_it_and_the_generator_waits_for_the_face(at: Callable[..., None]) -> None:
    async def scenario(watched: Watched) -> None:
        pipeline: Any = watched.watch._pipeline
        pipeline.embedder_is_up.clear()
        assert await watched.refused_s() == 2 * USUAL_S  # one after the other
        await watched.look_again()
        assert pipeline.asked == ["face"]
        pipeline.embedder_is_up.set()
        await eventually(lambda: _asked(watched, ["face", "generator"]))

    at(scenario, Pipeline, face=ZERO, generator=ZERO)


def test_a_measured_cold_start_is_told_from_then_on_less_what_has_passed(at: Callable[..., None]) -> None:
    async def scenario(watched: Watched) -> None:
        await watched.redis.hset(KEY, "Generator", "40.5")
        assert await watched.refused_s() == 41
        watched.watch._starts._cold["Generator"].began_at = watched.watch._polled_at - 30
        assert 5 < await watched.refused_s() <= 11  # 10.5, less what has passed since
        watched.watch._starts._cold["Generator"].began_at = watched.watch._polled_at - 300
        assert await watched.refused_s() == 5  # later than usual: a tenth of it

    at(scenario, Pipeline, generator=ZERO)


def test_a_start_that_was_seen_is_kept_for_everybody(at: Callable[..., None]) -> None:
    async def scenario(watched: Watched) -> None:
        for state in (STARTING, UP):
            watched.states = watched.states | {"Generator": state}
            await watched.look_again()
        assert 0 <= float(await watched.redis.hget(KEY, "Generator")) < USUAL_S  # type: ignore[arg-type]
        await watched.watch.require_warm([PHOTO])

    at(scenario, Pipeline, generator=ZERO)


def test_the_face_of_a_refused_request_is_looked_for_by_the_model_of_its_app(at: Callable[..., None]) -> None:
    async def scenario(watched: Watched) -> None:
        with pytest.raises(OverloadedError):
            await watched.watch.require_warm([PHOTO], "auraface")
        await eventually(lambda: _asked(watched, ["face by auraface", "generator"]))

    at(scenario, Pipeline, generator=ZERO)


def test_many_requests_at_zero_leave_few_calls_behind(at: Callable[..., None]) -> None:
    async def scenario(watched: Watched) -> None:
        for _ in range(3 * MAX_SCALE_UPS):
            await watched.refused_s()
        assert watched.watch._pipeline.asked.count("generator") <= MAX_SCALE_UPS  # type: ignore[attr-defined]

    at(scenario, Pipeline, generator=ZERO)


def test_nobody_is_refused_for_what_was_seen_long_ago(at: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(watched: Watched) -> None:
        await watched.refused_s()
        watched.away.set()
        monkeypatch.setattr(stages, "STALE_S", 0.0)
        await watched.watch.require_warm([PHOTO])

    at(scenario, Pipeline, generator=ZERO)


async def _asked(watched: Watched, asked: list[str]) -> bool:
    return bool(watched.watch._pipeline.asked == asked)  # type: ignore[attr-defined]

"""How many replicas what load brings. The contexts are Serve's own."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.serve._private.autoscaling_state import _resolve_policy_callable
from ray.serve._private.common import DeploymentID
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from serve_app.policies import (
    ROWS,
    SLOTS,
    TASKS,
    RowsPolicy,
    SlotsPolicy,
    SteadyRowsPolicy,
    TasksPolicy,
    replicas_for,
)

MOST = 8


def context(
    now: int,
    metric: str = TASKS,
    reported: Sequence[float] = (),
    *,
    calls: float = 0,
    queued: float = 0,
    state: dict[str, Any] | None = None,
    at_s: float = 0,
    **config: Any,
) -> AutoscalingContext:
    """`now` replicas run; each number in `reported` is that of one of them."""
    values = {metric: {f"replica{index}": value for index, value in enumerate(reported)}}
    return AutoscalingContext(
        deployment_id=DeploymentID(name="deployment"),
        deployment_name="deployment",
        app_name="app",
        current_num_replicas=now,
        target_num_replicas=now,
        running_replicas=[],
        total_num_requests=calls,
        total_queued_requests=queued,
        aggregated_metrics=values if reported else {},  # type: ignore[arg-type]
        raw_metrics={},
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=MOST,
        policy_state=state or {},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=at_s,
        config=AutoscalingConfig(min_replicas=0, max_replicas=MOST, target_ongoing_requests=4, **config),
    )


@pytest.mark.parametrize(("work", "replicas"), [(0, 0), (0.1, 1), (4, 1), (4.1, 2), (40, 10)])
def test_from_none_there_are_as_many_as_the_work_fills(work: float, replicas: int) -> None:
    assert replicas_for(work, 4, now=0) == replicas


def test_none_goes_before_the_rest_would_have_some_to_spare() -> None:
    assert replicas_for(8, 4, now=3, spare=0.2) == 3
    assert replicas_for(6.5, 4, now=3, spare=0.2) == 3
    assert replicas_for(6.3, 4, now=3, spare=0.2) == 2


@pytest.mark.parametrize("now", range(10))
@pytest.mark.parametrize("work", [0, 0.5, 3.9, 4, 4.1, 7.9, 8, 20])
def test_never_fewer_than_what_runs_needs_and_never_more_than_needed_or_there(work: float, now: int) -> None:
    replicas = replicas_for(work, 4, now)
    assert replicas * 4 >= work
    assert replicas <= max(now, -(-work // 4))


def test_load_that_swings_around_what_some_replicas_do_moves_none() -> None:
    now = 1
    seen = []
    for work in [4.2, 3.9, 4.1, 3.8, 4.3] * 20:
        now = replicas_for(work, 4, now)
        seen.append(now)
    assert set(seen) == {2}


def test_every_worker_reports_the_whole_queue_and_it_counts_once() -> None:
    assert TasksPolicy()(context(2, TASKS, [11, 12]))[0] == 3


def test_workers_stay_as_they_are_while_the_broker_tells_nothing() -> None:
    assert TasksPolicy()(context(3, TASKS))[0] == 3


def test_an_empty_queue_needs_no_worker_but_the_least_that_is_asked_for() -> None:
    assert TasksPolicy()(context(3, TASKS, [0, 0, 0]))[0] == 0  # Serve keeps `min_replicas`


def test_images_of_all_generators_and_those_still_at_the_callers_count_together() -> None:
    assert RowsPolicy()(context(2, ROWS, [4, 5], queued=8))[0] == 5


def test_the_larger_of_two_counts_of_images_is_taken() -> None:
    assert RowsPolicy()(context(1, ROWS, [2], calls=15))[0] == 4
    assert RowsPolicy()(context(1, ROWS, [15], calls=2))[0] == 4
    assert RowsPolicy()(context(1, ROWS, calls=15))[0] == 4


@pytest.mark.parametrize("spare", [-0.1, 1, 2])
def test_a_share_that_is_none_is_refused(spare: float) -> None:
    with pytest.raises(ValueError, match="spare"):
        TasksPolicy(spare)


@pytest.mark.parametrize("name", ["TasksPolicy", "RowsPolicy", "SteadyRowsPolicy"])
def test_serve_makes_a_policy_of_its_name_and_arguments(name: str) -> None:
    policy = AutoscalingPolicy(policy_function=f"serve_app.policies:{name}", policy_kwargs={"spare": 0.5})
    made = _resolve_policy_callable(policy)
    assert made(context(3, TASKS, [8], calls=8))[0] == 3  # with a fifth to spare it were two


def test_from_zero_a_waiting_image_brings_a_generator_at_once() -> None:
    decide = _apply_autoscaling_config(RowsPolicy())  # type: ignore[arg-type]
    assert decide(context(0, ROWS, calls=1, queued=1, upscale_delay_s=30))[0] == 1


def test_serves_delays_hold_for_our_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = _apply_autoscaling_config(TasksPolicy())  # type: ignore[arg-type]
    state: dict[str, Any] = {}
    decided = []
    for second in range(8):
        monkeypatch.setattr("ray.serve.autoscaling_policy.time.time", lambda second=second: second)
        replicas, state = decide(context(1, TASKS, [16], state=state, upscale_delay_s=5))
        decided.append(replicas)
    assert decided == [1, 1, 1, 1, 1, 4, 1, 1]  # asked again each time as if it had not been done


def steady(loads: Sequence[float], now: int, state: dict[str, Any] | None = None, **config: Any) -> list[int]:
    """What Serve decides about a load that is seen each second, where replicas start at once."""
    decide = _apply_autoscaling_config(SteadyRowsPolicy(rows=2, window_s=60, spare=0.05))  # type: ignore[arg-type]
    state, decided = state or {}, []
    with pytest.MonkeyPatch.context() as monkeypatch:
        for second, load in enumerate(loads):
            monkeypatch.setattr("ray.serve.autoscaling_policy.time.time", lambda second=second: second)
            now, state = decide(context(now, calls=load, state=state, at_s=second, **config))
            decided.append(now)
    return decided


def test_a_moments_images_move_no_replica_and_those_that_last_do() -> None:
    at_once: dict[str, Any] = {"upscale_delay_s": 0, "downscale_delay_s": 0}
    assert set(steady([12, 2] * 120, 4, **at_once)) == {4}
    assert steady([12] * 600, 4, **at_once)[-1] == 6
    assert steady([3.6] * 600, 4, **at_once)[-1] == 2


def test_a_backlog_that_lasts_brings_twice_as_many_in_a_window_and_not_as_many_as_it_has_images_for() -> None:
    decide = SteadyRowsPolicy(rows=2, window_s=60)
    state: dict[str, Any] = {}
    for second in range(600):  # the replicas that are to come do not run yet
        replicas, state = decide(context(4, calls=30, state=state, at_s=second))
    assert replicas == 8


def test_a_burst_brings_what_draws_it_as_soon_as_serve_lets_it() -> None:
    loads = [4, 4] + [100] * 8
    assert steady(loads, 2, upscale_delay_s=5)[-3:] == [25, 25, 25]
    assert steady([2, 2, 2, 100, 2, 2, 2, 2, 2], 2, upscale_delay_s=5) == [2] * 9


def test_the_last_replica_goes_when_nobody_asks_and_the_first_comes_with_an_image() -> None:
    delays: dict[str, Any] = {"downscale_delay_s": 5, "downscale_to_zero_delay_s": 20}
    assert steady([0] * 30, 1, **delays)[18:] == [1] * 2 + [0] * 10
    assert steady([0, 1, 1], 0, upscale_delay_s=30) == [0, 1, 1]


@settings(deadline=None)
@given(now=st.integers(1, 8), load=st.floats(0, 100))
def test_a_controller_that_starts_anew_begins_with_the_replicas_that_it_aims_for(now: int, load: float) -> None:
    replicas, state = SteadyRowsPolicy(rows=2)(context(now, calls=min(load, 8 * now), at_s=1e9))
    assert replicas == now or now == 1
    later, _ = SteadyRowsPolicy(rows=2)(context(now, calls=2.0 * now, state=state, at_s=1e9 + 1))
    assert later == now


def test_a_clock_that_is_set_back_changes_no_mean() -> None:
    _, state = SteadyRowsPolicy()(context(3, calls=6, at_s=100))
    _, later = SteadyRowsPolicy()(context(3, calls=12, state=state, at_s=50))
    assert later["mean_rows"] == state["mean_rows"]


@pytest.mark.parametrize("values", [{"rows": 0}, {"window_s": -1}, {"spare": 1}])
def test_a_mean_over_nothing_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        SteadyRowsPolicy(**values)


@pytest.mark.parametrize(
    ("calls", "shares", "replicas"),
    [
        (0, (0.0, 0.0), 0),
        (3, (0.5, 0.4), 2),
        (3, (0.6, 0.6), 3),  # three requests of many images
        (9, (0.1, 0.1), 3),  # nine of one: four are those of a replica
        (2, (2.0, 1.5), 7),  # owners that held none were let in beyond the slots
        (9, (), 3),
    ],
)
def test_ingresses_are_as_many_as_requests_or_their_images_need(
    calls: int, shares: Sequence[float], replicas: int
) -> None:
    assert SlotsPolicy(spare=0.0)(context(2, SLOTS, shares, calls=calls))[0] == replicas


@pytest.mark.parametrize("full", [0, 1.5])
def test_a_share_of_slots_that_there_is_not_is_refused(full: float) -> None:
    with pytest.raises(ValueError, match="full"):
        SlotsPolicy(full=full)

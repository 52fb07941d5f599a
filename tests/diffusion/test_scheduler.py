"""Which rows take the next step: decisions alone."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.diffusion.engine.scheduler import Bucket, Row, RowEta, RowScheduler
from tests.support.fakes import row


@dataclass
class Curve:
    """Steps of `fixed_s` and `row_s` for each row of the denoiser's batch."""

    fixed_s: float = 0.014
    row_s: float = 0.003
    most: int = 16

    def step_s(self, _bucket: Bucket, batch_size: int) -> float:
        return self.fixed_s + self.row_s * batch_size

    def cap(self, _bucket: Bucket) -> int:
        return self.most


def scheduler_with(rows: list[Row], ageing: float = 0.3) -> RowScheduler:
    scheduler = RowScheduler(ageing)
    for each in rows:
        scheduler.add(each)
    return scheduler


def test_the_shortest_remaining_work_goes_first() -> None:
    long, short = row(num_inference_steps=50), row(num_inference_steps=8)
    nearly_done = row(num_inference_steps=50, steps_done=45)
    scheduler = scheduler_with([long, short, nearly_done])
    assert scheduler.next_batch(0, Curve(most=4)) == [nearly_done, short]


def test_a_row_that_has_waited_long_goes_before_a_shorter_one() -> None:
    old, short = row(num_inference_steps=50), row(num_inference_steps=8, arrived_at=10)
    scheduler = scheduler_with([old, short])
    assert scheduler.next_batch(10, Curve(most=2)) == [old]
    assert scheduler_with([old, short], ageing=0).next_batch(10, Curve(most=2)) == [short]


def test_a_step_is_for_rows_of_one_bucket() -> None:
    first, other, second = row(size="a", steps_done=2), row(size="b"), row(size="a")
    assert scheduler_with([other, first, second]).next_batch(0, Curve()) == [first, second]


def test_a_row_without_guidance_takes_half_the_room() -> None:
    rows = [row(guidance_scale=1.0) for _ in range(4)] + [row(guidance_scale=2.0) for _ in range(2)]
    batch = scheduler_with(rows).next_batch(0, Curve(most=6))
    assert sum(each.batch_size for each in batch) == 6
    assert len(batch) == 5


def test_a_row_that_takes_fewer_rows_from_a_step_on_makes_room_for_another_and_one_that_takes_more_makes_less() -> None:
    shrinks, grows, other = row(sizes=(2, 1, 1, 1)), row(sizes=(1, 1, 2, 2)), row(sizes=(1, 1, 1, 1, 1))
    scheduler, curve = scheduler_with([other, shrinks, grows]), Curve(fixed_s=1.0, row_s=1e-6, most=3)
    batches = []
    for _ in range(3):
        batches.append(scheduler.next_batch(0, curve))
        for each in batches[-1]:
            each.steps_done += 1
    assert batches == [[shrinks, grows], [shrinks, grows, other], [shrinks, grows]]
    assert scheduler.copy().next_batch(0, curve) == [shrinks, grows]


def test_an_image_takes_its_rows_part_of_steps_that_are_as_full_as_is_useful() -> None:
    curve = Curve(fixed_s=1.0, row_s=0.5, most=4)  # 3 s for 4 rows
    assert row(sizes=(2, 2, 1)).shared_s(curve) == pytest.approx(5 * 3 / 4)


def test_a_step_is_charged_by_the_rows_that_each_image_took_in_it() -> None:
    rows = [row(tenant="ann", steps_done=1, sizes=(2, 1)), row(tenant="bob", steps_done=1, sizes=(1, 1))]
    scheduler = scheduler_with(rows)
    scheduler.charge(rows, 9.0, 0, sizes=[2, 1])
    assert [scheduler._fair_share.used_s(tenant, 0) for tenant in ("ann", "bob")] == [6.0, 3.0]


def test_a_row_that_is_wider_than_the_cap_goes_alone() -> None:
    wide = row(guidance_scale=2.0)
    assert scheduler_with([wide]).next_batch(0, Curve(most=1)) == [wide]


def test_tenants_take_turns() -> None:
    many = [row(tenant="ann") for _ in range(8)]
    one = row(tenant="bob", num_inference_steps=50)
    batch = scheduler_with([*many, one]).next_batch(0, Curve(most=4))
    assert batch == [many[0], one]


def charged(rows: list[Row], tenant: str, seconds: float, now: float = 0) -> RowScheduler:
    """A scheduler whose tenant has used so much until now."""
    scheduler = scheduler_with(rows)
    scheduler.charge([row(tenant=tenant)], seconds, now)
    return scheduler


def test_who_had_little_of_late_goes_before_who_had_much() -> None:
    greedy, modest = row(tenant="greedy", num_inference_steps=1), row(tenant="modest", num_inference_steps=50)
    assert charged([greedy, modest], "greedy", 10).next_batch(0, Curve(most=2)) == [modest]
    assert charged([greedy, modest], "greedy", 0.5).next_batch(0, Curve(most=2)) == [greedy]  # too little to matter


def test_who_had_much_may_share_a_step_where_that_slows_nobody() -> None:
    greedy, modest = row(tenant="greedy"), row(tenant="modest")
    assert charged([greedy, modest], "greedy", 10).next_batch(0, Curve(fixed_s=0.1, row_s=0.001)) == [modest, greedy]
    assert charged([greedy, modest], "greedy", 10).next_batch(0, Curve()) == [modest]
    assert charged([greedy, modest], "modest", 10).next_batch(0, Curve()) == [greedy]
    assert charged([greedy, row(tenant="greedy")], "greedy", 10).next_batch(0, Curve()) != [greedy]


def test_what_was_used_long_ago_does_not_count_so_that_nobody_starves() -> None:
    greedy, modest = row(tenant="greedy"), row(tenant="modest", arrived_at=149)
    scheduler = charged([greedy, modest], "greedy", 40)
    assert scheduler.next_batch(0, Curve(most=2)) == [modest]
    scheduler = charged([greedy, modest], "greedy", 40)
    assert scheduler.next_batch(200, Curve(most=2)) == [greedy]  # it has waited longer, and that is all that counts


@pytest.mark.parametrize("curve", [Curve(), Curve(fixed_s=0.005, row_s=0.01)])
def test_a_modest_tenant_waits_hardly_longer_beside_a_greedy_one(curve: Curve) -> None:
    alone, beside = modest_waits(curve, greedy_rows=0), modest_waits(curve, greedy_rows=12)
    assert sorted(beside)[-len(beside) // 20] <= 1.2 * max(alone)


IDLE_S = 0.001  # until somebody looks again
Arrivals = Callable[[float, int], list[Row]]
"""What another tenant asks for at a moment, when so many of its images are not done."""


def waits_beside(others: Arrivals, curve: Curve, until: float) -> list[float]:
    """How long each image of a modest tenant takes, which asks for one after another, with pauses."""
    scheduler, waits = RowScheduler(0.25), []
    modest, now, comes_at = None, 0.0, 0.0
    while now < until:
        if modest is None and now >= comes_at:
            modest = row(tenant="modest", num_inference_steps=4, arrived_at=now)
            scheduler.add(modest)
        for each in others(now, len(scheduler) - (modest is not None)):
            scheduler.add(each)
        rows = scheduler.next_batch(now, curve)
        step_s = curve.step_s(rows[0].bucket, sum(each.batch_size for each in rows)) if rows else IDLE_S
        now += step_s
        for each in rows:
            each.steps_done += 1
        scheduler.charge(rows, step_s, now)
        scheduler.remove([each for each in rows if not each.steps_left])
        if modest is not None and not modest.steps_left:
            waits.append(now - modest.arrived_at)
            modest, comes_at = None, now + 0.3
    return waits


def modest_waits(curve: Curve, greedy_rows: int) -> list[float]:
    """Beside a full queue."""

    def refill(now: float, left: int) -> list[Row]:
        return [row(tenant="greedy", num_inference_steps=12, arrived_at=now) for _ in range(greedy_rows - left)]

    return waits_beside(refill, curve, until=60)


def test_rows_of_a_tenant_that_used_much_before_this_stage_go_behind_until_others_used_as_much() -> None:
    back, other = row(tenant="greedy", tenant_used_s=60.0), row(tenant="modest", num_inference_steps=50, arrived_at=5)
    scheduler = scheduler_with([back, other])
    assert scheduler.next_batch(5, Curve()) == [other]
    assert scheduler_with([back, other]).next_batch(300, Curve(most=2)) == [back]  # it decays
    assert scheduler_with([back]).next_batch(5, Curve()) == [back]
    scheduler.charge([other], 130.0, 5)
    scheduler.add(newest := row(tenant="modest", arrived_at=6))
    assert scheduler.next_batch(6, Curve(most=2)) == [back]
    assert newest in scheduler.rows


def test_a_row_that_yields_may_share_a_step_where_that_slows_no_other() -> None:
    back, other = row(tenant="greedy", tenant_used_s=60.0), row(tenant="modest")
    assert scheduler_with([back, other]).next_batch(0, Curve(fixed_s=0.1, row_s=0.001)) == [other, back]


@given(st.lists(st.tuples(st.sampled_from(["ann", "bob", "cid"]), st.booleans(), st.integers(1, 50)), min_size=1))
@settings(deadline=None)
def test_a_step_goes_first_to_a_tenant_that_used_little(requests: list[tuple[str, bool, int]]) -> None:
    heavy = {name: used for name, used, _steps in requests}
    rows = [
        row(tenant=name, tenant_used_s=60.0 * heavy[name], num_inference_steps=steps) for name, _, steps in requests
    ]
    first = scheduler_with(rows).next_batch(1, Curve())[0]
    assert heavy[first.spec.tenant] == all(heavy.values())


@pytest.mark.parametrize("curve", [Curve(), Curve(fixed_s=0.005, row_s=0.01)])
def test_bursts_of_one_who_had_little_and_asks_too_much_slow_nobody(curve: Curve) -> None:
    alone = burst_waits(curve, burst=0)
    assert p95(burst_waits(curve, burst=3, used_s=60.0)) <= 1.2 * p95(alone)
    if curve.row_s > curve.fixed_s:  # where rows cost much, the turns of tenants would not do
        assert p95(burst_waits(curve, burst=3)) > 2 * p95(alone)


def burst_waits(curve: Curve, burst: int, used_s: float = 0.0, every_s: float = 3.1) -> list[float]:
    """Beside one who has bursts of images."""
    moments = itertools.count(0, every_s)
    next_at = next(moments)

    def bursts(now: float, _left: int) -> list[Row]:
        nonlocal next_at
        if now < next_at:
            return []
        next_at = next(moments)
        images = {"tenant": "greedy", "num_inference_steps": 4, "tenant_used_s": used_s, "arrived_at": now}
        return [row(**images) for _ in range(burst)]

    return waits_beside(bursts, curve, until=120)


def p95(waits: list[float]) -> float:
    return sorted(waits)[-(len(waits) // 20) - 1]


def test_where_each_row_more_costs_much_the_short_one_goes_ahead_by_itself() -> None:
    short, long = row(num_inference_steps=8), row(num_inference_steps=50)
    steep, flat = Curve(fixed_s=0.006, row_s=0.012), Curve(fixed_s=0.014, row_s=0.003)
    assert scheduler_with([long, short]).next_batch(0, steep) == [short]
    assert scheduler_with([long, short]).next_batch(0, flat) == [short, long]


def test_the_same_rows_go_on_until_one_comes_or_goes() -> None:
    first, second = row(num_inference_steps=8), row(num_inference_steps=9)
    scheduler = scheduler_with([first, second])
    curve = Curve(most=2)
    for _ in range(3):
        assert scheduler.next_batch(0, curve) == [first]
        first.steps_done += 1
    shorter = row(num_inference_steps=4)
    scheduler.add(shorter)
    assert scheduler.next_batch(0, curve) == [shorter]
    shorter.future.cancel()
    scheduler.drop_expired(now=0)
    assert scheduler.next_batch(0, curve) == [first]
    scheduler.remove([first])
    assert scheduler.next_batch(0, curve) == [second]


def test_a_cap_that_fell_counts_at_once() -> None:
    scheduler = scheduler_with([row(), row()])
    assert len(scheduler.next_batch(0, Curve(most=4))) == 2
    assert len(scheduler.next_batch(0, Curve(most=2))) == 1


def test_a_row_that_must_be_alone_is() -> None:
    alone, other = row(alone=True), row(num_inference_steps=50)
    scheduler = scheduler_with([other, alone])
    assert scheduler.next_batch(0, Curve()) == [alone]
    scheduler.remove([alone])
    assert scheduler.next_batch(0, Curve()) == [other]


def test_nothing_waits_for_nothing() -> None:
    assert scheduler_with([]).next_batch(0, Curve()) == []


def test_a_row_whose_deadline_has_passed_is_taken_out() -> None:
    late, fine = row(deadline=10.0), row(deadline=20.0)
    scheduler = scheduler_with([late, fine])
    assert scheduler.drop_expired(now=10.0) == [late]
    assert scheduler.next_batch(10, Curve()) == [fine]


def test_a_row_that_does_not_begin_by_its_start_deadline_is_taken_out_and_one_that_has_begun_stays() -> None:
    begun, idle, unhurried = row(start_deadline=10.0), row(task_id="b", start_deadline=10.0), row(task_id="c")
    scheduler = scheduler_with([begun, idle, unhurried])
    scheduler.begin([begun], now=9.0)
    assert scheduler.drop_expired(now=9.9) == []
    assert scheduler.drop_expired(now=10.0) == [idle]
    assert scheduler.rows == [begun, unhurried]


@pytest.mark.parametrize("comes_later", [False, True])
def test_a_task_has_begun_with_its_first_row_and_keeps_the_others(comes_later: bool) -> None:
    first, second = row(start_deadline=10.0), row(image_index=1, start_deadline=10.0)
    scheduler = scheduler_with([first] if comes_later else [first, second])
    scheduler.begin([first], now=9.0)
    if comes_later:
        scheduler.add(second)
    assert scheduler.drop_expired(now=11.0) == []
    scheduler.remove([first])  # its steps are made
    assert scheduler.drop_expired(now=12.0) == []
    assert scheduler.rows == [second]


def test_a_start_deadline_that_is_met_leaves_the_deadline() -> None:
    late = row(deadline=20.0, start_deadline=10.0)
    scheduler = scheduler_with([late])
    scheduler.begin([late], now=9.0)
    assert scheduler.drop_expired(now=20.0) == [late]


def test_a_row_that_nobody_waits_for_is_forgotten() -> None:
    gone, fine = row(deadline=10.0), row()
    scheduler = scheduler_with([gone, fine])
    gone.future.cancel()
    assert scheduler.drop_expired(now=11.0) == []
    assert scheduler.next_batch(11, Curve()) == [fine]
    assert dict(scheduler.waiting()) == {fine.bucket: 1}


def test_draining_leaves_nothing() -> None:
    rows = [row(), row(size="b")]
    scheduler = scheduler_with(rows)
    assert scheduler.drain() == rows
    assert len(scheduler) == 0


def test_the_forecast_knows_who_goes_first_and_who_shares_a_step() -> None:
    curve = Curve(fixed_s=1.0, row_s=1.0, most=4)  # 5 s for two images, 3 s for one
    begun = row(num_inference_steps=10, steps_done=8, joined_at=0.5)
    short, long, other = row(num_inference_steps=2), row(num_inference_steps=6), row(size="b", num_inference_steps=9)
    forecast = scheduler_with([other, long, short, begun]).forecast(0, curve)
    assert forecast == {
        begun: RowEta(eta_s=10, queue_position=0),
        short: RowEta(eta_s=10, queue_position=1),
        long: RowEta(eta_s=28, queue_position=2),
        other: RowEta(eta_s=55, queue_position=3),
    }


def test_the_forecast_knows_that_an_image_takes_other_numbers_of_rows_later() -> None:
    curve = Curve(fixed_s=1.0, row_s=0.5, most=2)
    grows, even = row(sizes=(1, 2)), row(sizes=(1, 1, 1))
    forecast = scheduler_with([grows, even]).forecast(0, curve)
    # Together for 2 s, then the one that grows for 2 s alone, then the other for two steps of 1.5 s.
    assert {each: eta.eta_s for each, eta in forecast.items()} == {grows: 4.0, even: 7.0}


def test_a_forecast_changes_nothing_for_the_one_that_was_copied() -> None:
    rows = [row(), row()]
    scheduler = scheduler_with(rows)
    scheduler.copy().remove(rows[:1])
    assert list(scheduler.rows) == rows
    assert scheduler.copy().forecast(0, Curve()).keys() == set(rows)


def simulate(scheduler: RowScheduler, arrivals: list[Row], curve: Curve) -> dict[Row, float]:
    """When each row is done, in seconds; one step after the other."""
    now, done = 0.0, dict[Row, float]()
    while arrivals or len(scheduler):
        if not len(scheduler):
            now = max(now, arrivals[0].arrived_at)
        while arrivals and arrivals[0].arrived_at <= now:
            scheduler.add(arrivals.pop(0))
        for late in scheduler.drop_expired(now):
            done[late] = now
        batch = scheduler.next_batch(now, curve)
        assert sum(each.batch_size for each in batch) <= max(curve.most, 2)
        assert len({each.bucket for each in batch}) <= 1
        now += curve.step_s(("", ""), sum(each.batch_size for each in batch))
        for each in batch:
            each.steps_done += 1
        over = [each for each in batch if not each.steps_left]
        scheduler.remove(over)
        done |= dict.fromkeys(over, now)
    return done


@settings(deadline=None)
@given(steps=st.lists(st.integers(1, 50), min_size=1, max_size=20), most=st.integers(2, 16))
def test_what_is_forecast_comes_true_where_rows_cost_little(steps: list[int], most: int) -> None:
    curve = Curve(fixed_s=1.0, row_s=1e-6, most=most)
    rows = [row(num_inference_steps=count) for count in steps]
    forecast = scheduler_with(rows).forecast(0, curve)
    done = simulate(RowScheduler(0.3), rows.copy(), curve)
    for each in rows:
        assert forecast[each].eta_s == pytest.approx(done[each], abs=1e-6)


REQUESTS = st.lists(
    st.tuples(
        st.floats(0, 3),  # arrives at
        st.sampled_from([1, 8, 20, 30, 50]),
        st.sampled_from("ab"),  # size
        st.sampled_from([(1,), (2,), (1, 2, 1), (2, 1)]),  # rows of the batch in parts of its steps
        st.sampled_from(["ann", "bob"]),
        st.sampled_from([0.5, 1e9]),  # deadline
        st.booleans(),  # cancelled
    ),
    max_size=25,
)


@settings(deadline=None)
@given(requests=REQUESTS, most=st.integers(2, 16), ageing=st.floats(0, 2))
def test_every_row_comes_to_its_end_once(requests: list[tuple], most: int, ageing: float) -> None:  # type: ignore[type-arg]
    rows = []
    for at, steps, size, parts, tenant, deadline, cancelled in sorted(requests, key=lambda each: each[0]):
        sizes = [parts[step * len(parts) // steps] for step in range(steps)]
        rows.append(row(size=size, arrived_at=at, sizes=sizes, tenant=tenant, deadline=deadline))
        if cancelled:
            rows[-1].future.cancel()
    done = simulate(RowScheduler(ageing), list(rows), Curve(most=most))
    for each in rows:
        finished = each.steps_left == 0
        late = each.spec.deadline == 0.5 and not finished
        assert (each in done) == (not each.is_cancelled or finished)
        assert finished or late or each.is_cancelled


@settings(deadline=None)
@given(short_every=st.floats(0.05, 0.4), ageing=st.floats(0.2, 2))
def test_with_ageing_no_stream_of_short_requests_starves_a_long_one(short_every: float, ageing: float) -> None:
    curve = Curve(most=2)  # one image at a time: 0.16 s for a short one, 1 s for the long one
    long = row(num_inference_steps=50)
    stream = [row(num_inference_steps=8, arrived_at=number * short_every) for number in range(200)]
    done = simulate(RowScheduler(ageing), [long, *stream], curve)
    overtaken_by = [each.arrived_at for each in stream if done[each] < done[long]]
    # Who comes later finds that its waiting makes up for the work that it has more: 50 - 8 steps of 0.02 s.
    assert max(overtaken_by, default=0) <= 0.84 / ageing + 0.02

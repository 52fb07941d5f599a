"""The smaller chaos, and what chaos is made of."""

from dataclasses import replace

import pytest

from tests.chaos.ledger import KINDS, Plan, kill_order, orders
from tests.chaos.report import RUNS_AGAIN_S, Ends, Files, Report
from tests.chaos.run import run_chaos

# This seed's worker dies long before the broker and the controller: how soon its tasks run again can be told.
PLAN = Plan(tasks=60, kills=len(KINDS), minutes=4, seed=188)
GOOD = Report(
    plan=PLAN,
    seconds=60,
    kills=dict.fromkeys(KINDS, 1),
    accepted=60,
    repeated=0,
    ends=Ends({"SUCCESS": 60}, [], [], [], [], []),
    files=Files([], [], 0),
    runs_again_s=[RUNS_AGAIN_S],
    runs_again_amid_s=[],
    sync_requests=4,
    sync_refused={},
    hung=0,
)


@pytest.mark.slow
def test_no_task_is_lost_done_twice_or_stuck_while_a_process_of_every_kind_is_killed() -> None:
    report = run_chaos(PLAN)
    assert report.misses() == [], report
    assert report.runs_again_s


def test_every_kind_is_killed_once_before_one_comes_again() -> None:
    order = kill_order(replace(PLAN, kills=2 * len(KINDS)))
    assert {frozenset(order[: len(KINDS)]), frozenset(order[len(KINDS) :])} == {frozenset(KINDS)}


def test_a_seed_stands_for_the_same_orders() -> None:
    assert orders(PLAN) == orders(PLAN) != orders(replace(PLAN, seed=8))
    assert sum(not order.synchronous for order in orders(PLAN)) == PLAN.tasks


@pytest.mark.parametrize(
    "bad",
    [
        {"accepted": 59},
        {"kills": {"worker": len(KINDS)}},
        {"ends": replace(GOOD.ends, lost=["a"])},
        {"ends": replace(GOOD.ends, duplicated=["a"])},
        {"files": replace(GOOD.files, missing=["a/0.png"])},
        {"files": replace(GOOD.files, left_over=["a/0.png"])},
        {"runs_again_s": [1.0, RUNS_AGAIN_S + 0.1]},
        {"sync_refused": {"sync-7": "HTTP 500"}},
        {"hung": 1},
    ],
    ids=str,
)
def test_whatever_went_wrong_misses_a_bar(bad: dict[str, object]) -> None:
    assert GOOD.misses() == []
    assert len(replace(GOOD, **bad).misses()) == 1  # type: ignore[arg-type]

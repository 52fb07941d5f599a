"""The fleet that knows the load, which the policies are held against."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadtest.plan import __main__ as plan
from loadtest.plan.curves import Curves, assumed_for
from loadtest.plan.ledger import Window
from loadtest.plan.loads import Kind, Load, Mix, Request, drawn
from loadtest.plan.oracle import SchedulePolicy, busy_replicas, is_met, oracle
from loadtest.plan.scenario import Scenario
from loadtest.plan.service import NodePrice, Service, Starts
from loadtest.plan.simulation import Simulation

SLOW = Kind(app="face-avatar", width=1024, height=1024, steps=40, guided=False)  # 5 s an image
PRICE = NodePrice(gpus=1, per_hour=2.0)
SHARE, BELOW_S = 0.95, 20.0


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    times = assumed_for("klein")
    assert times is not None
    starts = Starts(node_s=40, node_idle_s=60, replica_s=5, load_s_per_gb=0.1, warm_s=1)
    return Scenario(Service.read(plan.PRODUCTION), Curves({"flux2-klein": times}), starts, PRICE)


@pytest.fixture(scope="module")
def load() -> Load:
    """Ten quiet minutes, ten with four times as many images, and ten quiet ones."""
    quiet, busy = (drawn("poisson", images, 1 / 144, Mix(kinds=(SLOW,)), 1) for images in (12_000, 48_000))
    parts = (quiet, busy, drawn("poisson", 12_000, 1 / 144, Mix(kinds=(SLOW,)), 2))
    requests = [moved(each, 600.0 * index) for index, part in enumerate(parts) for each in part.requests]
    return Load("three parts", requests, 1800.0)


def moved(request: Request, seconds: float) -> Request:
    return Request(**{name: getattr(request, name) for name in Request.__slots__} | {"at_s": request.at_s + seconds})


def wanted(policy: SchedulePolicy, at_s: float) -> int:
    moment: Any = SimpleNamespace(current_time=at_s)
    return policy(moment)[0]


def test_a_schedule_orders_replicas_before_their_window_and_keeps_them_until_its_end() -> None:
    policy = SchedulePolicy([1, 3, 2], lead_s=100.0)
    assert [wanted(policy, at_s) for at_s in (0, 499, 500, 1100, 1199, 1200, 5000)] == [1, 1, 3, 3, 3, 2, 2]


def test_a_start_that_lasts_longer_than_a_window_looks_over_all_that_it_lasts() -> None:
    assert wanted(SchedulePolicy([1, 5, 1, 2], lead_s=1300.0), 0.0) == 5


def test_a_window_whose_refused_requests_are_too_many_is_missed() -> None:
    assert is_met(Window(latencies_s=[1.0] * 19 + [9.0]), 0.95, 5.0)
    assert not is_met(Window(latencies_s=[1.0] * 19 + [9.0], failed=1), 0.95, 5.0)
    assert is_met(Window(), 0.95, 5.0)


def test_the_oracle_meets_every_window_for_less_than_any_fixed_fleet(scenario: Scenario, load: Load) -> None:
    busy = busy_replicas(load, scenario)
    assert busy[1] == pytest.approx(4 * busy[0], rel=0.3)

    def simulate(each: Scenario) -> Simulation:
        return Simulation(load, each).run()

    found = oracle(load, scenario, simulate, SHARE, BELOW_S)
    assert found.missed == 0
    assert all(is_met(window, SHARE, BELOW_S) for window in found.run.windows)
    fixed = [simulate(scenario.serving(scenario.service.fixed(number))) for number in range(1, 7)]
    enough = [run.cost for run in fixed if all(is_met(window, SHARE, BELOW_S) for window in run.windows)]
    assert enough
    assert found.run.cost < 0.8 * min(enough)


def test_the_oracle_says_what_the_replicas_that_are_allowed_cannot_meet(scenario: Scenario, load: Load) -> None:
    one = scenario.serving(scenario.service.with_up_to(1))
    found = oracle(load, one, lambda each: Simulation(load, each).run(), SHARE, 6.0)
    assert found.missed > 0


def test_the_command_shows_other_settings_and_the_oracle_beside_those_of_the_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    steady = '{upscale_delay_s: 5, policy: {policy_function: "serve_app.policies:SteadyRowsPolicy"}}'
    load = ["--images-per-day", "20000", "--days", "0.03", "--load", "poisson"]
    plan.main(
        [*load, "--no-fixed", "--oracle", "--target", "p95<60s", "--beside", f"steady={steady}", "--json", str(out)]
    )
    autoscaled, other, best = json.loads(out.read_text())["runs"]
    assert [run["fleet"] for run in (autoscaled, other, best)] == ["autoscaled", "steady", "oracle"]
    assert autoscaled["windows"] != other["windows"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "cost, times the oracle's" in printed


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ("slow", "NAME="),
        ("slow=900", "NAME="),
        ("slow={downscale_delay_s: -1}", "downscale_delay_s"),
        ('other={policy: {policy_function: "serve_app.policies:NoPolicy"}}', "NoPolicy"),
    ],
)
def test_settings_that_there_are_not_are_said(beside: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        plan.main(["--images-per-day", "1000", "--days", "0.01", "--load", "poisson", "--beside", beside])
    assert said in capsys.readouterr().err

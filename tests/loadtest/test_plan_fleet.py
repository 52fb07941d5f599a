"""The planner's fleet mode: what becomes of images, its models against the exact ones, its figures beside theirs."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadtest.plan import __main__ as plan
from loadtest.plan.answers import Figures
from loadtest.plan.curves import Curves, assumed_for
from loadtest.plan.fleet_simulation import FleetSimulation
from loadtest.plan.fleet_slots import FleetSlots
from loadtest.plan.loads import Columns, DrawnRequests, Load, Request
from loadtest.plan.replica_table import Demand, ReplicaTable
from loadtest.plan.scaled_service import ScaledService
from loadtest.plan.scenario import Scenario
from loadtest.plan.service import NodePrice, Service, Starts
from loadtest.plan.simulation import Simulation
from serve_app.errors import OverloadedError
from serve_app.generation.admission import FairSlots

SPOT = NodePrice(gpus=2, per_hour=2.0, min_billed_s=60, interruptions_per_day=200)
SHORT = Starts(node_s=40, node_idle_s=60, replica_s=5, load_s_per_gb=0.1, warm_s=1)
APPS = {"face-avatar": {"steps": 4, "guided": False}, "face-avatar-sdxl": {"steps": 30, "guided": True}}
KINDS = [
    Request(0.0, "", app, 1024, 1024, fields["steps"], bool(fields["guided"]), batch, queued, False, deadline_s)
    for (app, fields), batch, queued, deadline_s in itertools.product(
        APPS.items(), (1, 3, 8), (False, True), (None, 5.0, 120.0)
    )
]
TENANTS = ["t0", "t1", "t2"]

Run = Callable[[Load, Scenario], ScaledService[Any, Any]]


@pytest.fixture(scope="module")
def service() -> Service:
    return Service.read(plan.PRODUCTION)


@pytest.fixture(scope="module")
def curves(service: Service) -> Curves:
    return Curves({model: times for model in service.models.values() if (times := assumed_for(model))})


@pytest.fixture(scope="module")
def runs(service: Service, curves: Curves) -> dict[str, Run]:
    """By mode. The table has few requests: what becomes of images does not depend on how long they take."""
    moments = np.arange(len(KINDS), dtype=float)
    columns = Columns(moments, np.arange(len(KINDS)), np.zeros(len(KINDS), np.intp), KINDS, TENANTS)
    table = ReplicaTable(Demand.of(columns, service.models), Scenario(service, curves, SHORT, SPOT), requests=60)
    return {
        "exact": lambda load, scenario: Simulation(load, scenario),
        "fleet": lambda load, scenario: FleetSimulation(load, scenario, table),
    }


requests_of_a_day = st.lists(
    st.tuples(st.floats(0.0, 200.0), st.integers(0, len(KINDS) - 1), st.integers(0, len(TENANTS) - 1)), max_size=25
)


def day(parts: Sequence[tuple[float, int, int]]) -> Load:
    gaps, kinds, tenants = (np.array([part[index] for part in parts]) for index in range(3))
    moments = np.cumsum(gaps.astype(float))
    columns = Columns(moments, kinds.astype(np.intp), tenants.astype(np.intp), KINDS, TENANTS)
    return Load("day", DrawnRequests(columns), float(moments[-1] if len(parts) else 0.0) + 600.0)


@pytest.mark.parametrize("mode", ["exact", "fleet"])
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(parts=requests_of_a_day, seed=st.integers(0, 5), deaths_a_day=st.sampled_from([400.0, 4000.0]))
def test_no_image_is_lost_or_drawn_twice_in_a_day_with_kills_and_spot_interruptions(
    service: Service,
    curves: Curves,
    runs: dict[str, Run],
    mode: str,
    parts: list[tuple[float, int, int]],
    seed: int,
    deaths_a_day: float,
) -> None:
    load = day(parts)
    starts = SHORT.model_copy(update={"kills_per_gpu_day": deaths_a_day})
    both = [runs[mode](load, Scenario(service, curves, starts, SPOT, seed)).run() for _ in range(2)]
    ledger, generators = both[0].ledger, both[0].generators
    assert ledger.images == load.images
    assert ledger.drawn + ledger.late + sum(ledger.refused.values()) == ledger.images
    assert (generators.waiting, generators.ongoing) == (0, 0)
    assert Figures.of("", both[0]) == Figures.of("", both[1])  # the same seed, the same day


def test_a_fleets_images_are_drawn_late_refused_or_under_way_at_every_moment(
    service: Service, curves: Curves, runs: dict[str, Run]
) -> None:
    dice = np.random.default_rng(4)
    load = day([(float(gap), int(dice.integers(len(KINDS))), 0) for gap in dice.exponential(0.5, 600)])
    starts = SHORT.model_copy(update={"kills_per_gpu_day": 4000.0})
    run = runs["fleet"](load, Scenario(service.fixed(6), curves, starts, SPOT))
    assert isinstance(run, FleetSimulation)
    open_images: list[int] = []

    def look() -> None:
        ledger = run.ledger
        open_images.append(run.open_images)
        assert ledger.images == ledger.drawn + ledger.late + sum(ledger.refused.values()) + open_images[-1]
        run.clock.at(run.clock.now + 7.0, look)

    run.clock.at(1.0, look)
    run.run()
    assert max(open_images) > 50
    assert run.generators.fleet.deaths > 5
    assert run.ledger.drawn > 200


requests_for_slots = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(1, 8), st.booleans()), max_size=40
)


@settings(max_examples=50, deadline=None)
@given(requests_for_slots)
def test_a_fleets_slots_let_in_whom_fair_slots_let_in(moves: list[tuple[int, int, int, bool]]) -> None:
    """Of each move the owner's request comes to an ingress; with True the oldest one there ends before."""

    class NobodyCounts:
        def charge_refusal(self, owner: str) -> None:
            """Nothing follows from it here."""

    ours = FleetSlots(8, 4)
    theirs = [FairSlots(8, "images", 1, NobodyCounts()) for _ in range(3)]
    held: list[list[tuple[int, int, ExitStack]]] = [[], [], []]
    for ingress, owner, images, ends in moves:
        at = np.array([ingress])
        if ends and held[ingress]:
            old_owner, old_images, stack = held[ingress].pop(0)
            stack.close()
            ours.release(at, np.array([old_owner]), np.array([old_images]))
        stack = ExitStack()
        try:
            stack.enter_context(theirs[ingress].hold(str(owner), images))
        except OverloadedError:
            is_in = False
        else:
            is_in = True
            held[ingress].append((owner, images, stack))
        assert ours.hold(at, np.array([owner]), np.array([images])).tolist() == [is_in]


def test_rare_kinds_count_as_the_one_of_their_model_that_is_most_like_them(service: Service) -> None:
    requests = [
        Request(0.0, "t", "face-avatar", 1024, 1024, steps, False, 1, False, False, None) for steps in range(1, 9)
    ]
    columns = Columns.of([*requests, *[requests[3]] * 5, *[requests[7]] * 3])
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("loadtest.plan.replica_table.MOST_CELLS", 2)
        demand = Demand.of(columns, service.models)
    assert [cell.steps for cell in demand.cells] == [4, 8]
    assert [demand.cells[cell].steps for cell in demand.of_kind] == [4, 4, 4, 4, 4, 8, 8, 8]
    assert demand.shares.tolist() == [10 / 16, 6 / 16]

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.diffusion.router import SPREAD, ModelRouter, Standing, groups_to_ask
from deployments.diffusion.routing_stats import RecentRows


def replica(name: str, *models: str, **stats: Any) -> Any:
    return SimpleNamespace(name=name, replica_id=name, routing_stats={"models": list(models)} | stats if models else {})


def router(**rows: int) -> ModelRouter:
    """`rows` are the images that Serve counts in each replica."""
    made = ModelRouter.__new__(ModelRouter)  # what it decides needs no connection to Serve
    made.initialize_state()
    made._replica_queue_len_cache = rows
    return made


def groups(replicas: list[Any], model: str, by: ModelRouter | None = None) -> list[set[str]]:
    request: Any = SimpleNamespace(metadata=SimpleNamespace(multiplexed_model_id=model))
    chosen = asyncio.run((by or router()).choose_replicas(replicas, request))
    return [{each.name for each in group} for group in chosen]


def test_replicas_that_have_the_model_come_first() -> None:
    replicas = [replica("cold"), replica("warm", "fake"), replica("both", "xl", "fake")]
    assert groups(replicas, "fake") == [{"warm", "both"}, {"cold"}]
    busy = router(other=3, cold=1, warm=2)
    assert groups([*replicas, replica("other", "xl")], "xl", busy) == [{"other", "both"}, {"cold", "warm"}]


def test_two_of_a_group_are_asked() -> None:
    replicas = [replica(str(number), "fake") for number in range(6)]
    asked = [groups(replicas, "fake")[0] for _ in range(50)]
    assert {len(each) for each in asked} == {2}
    assert set.union(*asked) == set("012345")


def test_a_call_that_names_no_model_may_go_anywhere() -> None:
    asked = [groups([replica("a", "fake"), replica("b")], "")[0] for _ in range(50)]
    assert set.union(*asked) == {"a", "b"}


def test_without_replicas_there_is_nothing_to_choose() -> None:
    assert groups([], "fake") == []


def test_an_idle_replica_loads_the_model_where_the_wait_is_longer_than_the_load() -> None:
    warm, idle = (
        replica("warm", "fake", loads_s={"fake": 10.0}, row_s=0.5),
        replica("idle", "xl", loads_s={"fake": 10.0}),
    )
    assert groups([warm, idle], "fake", router(warm=30)) == [{"warm"}, {"idle"}]
    assert groups([warm, idle], "fake", router(warm=31)) == [{"idle"}, {"warm"}]
    assert groups([warm, idle], "fake", router(warm=60, idle=1)) == [{"warm"}, {"idle"}]


def test_a_load_that_a_router_began_is_known_before_the_replica_reports_it() -> None:
    stats: dict[str, Any] = {"loads_s": {"fake": 10.0}, "row_s": 1.0}
    warm, first, second = (
        replica("warm", "fake", **stats),
        replica("first", "xl", **stats),
        replica("second", "xl", **stats),
    )
    by = router(warm=20)
    [one], *_ = groups([warm, first, second], "fake", by)
    by._replica_queue_len_cache[one] = 1
    assert groups([warm, first, second], "fake", by)[0] == {one}
    fresh, told = router(warm=20), replica("first", "xl", loading=["fake"], **stats)
    assert groups([warm, told, second], "fake", fresh)[0] == {"first"}


def test_what_a_replica_reports_of_its_images_seldom_changes() -> None:
    recent = RecentRows()
    assert recent.coarse_s == 0
    told = set()
    for number in range(300):
        recent.add(3.0 if number % 5 else 3.1)
        told.add(recent.coarse_s)
    assert len(told) == 1
    assert 2 ** (-1 / 4) <= told.pop() / recent.mean_s <= 2 ** (1 / 4)


@dataclass(frozen=True)
class Generator:
    number: int
    has_model: bool
    standing: Standing

    @property
    def wait_s(self) -> float:
        return self.standing.rows * self.standing.row_s


standings = st.builds(
    Standing, rows=st.integers(0, 64), row_s=st.floats(0.1, 5.0), load_s=st.just(12.0), is_loading=st.booleans()
)
fleets = st.lists(st.tuples(st.booleans(), standings), max_size=8).map(
    lambda each: [
        Generator(number, has_model, standing._replace(is_loading=standing.is_loading and not has_model))
        for number, (has_model, standing) in enumerate(each)
    ]
)


def asked(fleet: Sequence[Generator], seed: int) -> list[list[Generator]]:
    return groups_to_ask(
        fleet, "m", lambda each: {"m"} if each.has_model else set(), lambda each: each.standing, Random(seed)
    )


def is_idle(each: Generator) -> bool:
    return not each.has_model and not each.standing.is_loading and not each.standing.rows


@settings(max_examples=60, deadline=None)
@given(fleet=fleets, seed=st.integers(0, 9))
def test_the_first_group_is_where_an_image_waits_least_and_no_load_is_worth_less_than_it_costs(
    fleet: list[Generator], seed: int
) -> None:
    found = asked(fleet, seed)
    numbers = [each.number for group in found for each in group]
    assert len(numbers) == len(set(numbers))
    assert all(1 <= len(group) <= 2 for group in found)
    assert bool(found) == bool(fleet)
    ready_s = min((each.wait_s for each in fleet if each.has_model), default=math.inf)
    loading = [each for each in fleet if each.standing.is_loading]
    having_s = min(ready_s, *(each.wait_s + each.standing.load_s for each in loading), math.inf)
    idle = [each for each in fleet if is_idle(each)]
    if not found:
        return
    first = found[0]
    if idle and having_s > SPREAD * 12.0:
        assert len(first) == 1
        assert is_idle(first[0])
    elif having_s < math.inf:
        assert not any(is_idle(each) for each in first)
        assert all(each.has_model == (ready_s <= having_s) for each in first)
    elif idle:
        assert is_idle(first[0])


@settings(max_examples=15, deadline=None)
@given(
    images=st.integers(1, 150),
    rows=st.integers(0, 40),
    row_s=st.floats(0.05, 4.0),
    load_s=st.floats(1.0, 60.0),
    seed=st.integers(0, 9),
)
def test_a_burst_loads_the_model_in_no_more_replicas_than_its_work_fills(
    images: int, rows: int, row_s: float, load_s: float, seed: int
) -> None:
    """Images come at once where one replica has the model; what is left on each is at least half a load of work."""
    fleet = [Generator(0, True, Standing(rows, row_s, load_s, False))]
    fleet += [Generator(number, False, Standing(0, 0.0, load_s, False)) for number in range(1, 20)]
    for number in range(images):
        taker = min(asked(fleet, seed + number)[0], key=lambda each: each.standing.rows)
        taken = taker.standing._replace(rows=taker.standing.rows + 1, is_loading=not taker.has_model)
        fleet[taker.number] = replace(taker, standing=taken)
    loads = sum(each.standing.is_loading for each in fleet)
    assert (loads - 1) * (SPREAD - 1) * load_s <= images * row_s
    if images + rows <= SPREAD * load_s / row_s:
        assert loads == 0
    if loads < 19:  # nobody waits much longer than the image that first found a load worth its while
        assert all(each.standing.rows * row_s <= max(rows * row_s, SPREAD * load_s + row_s) for each in fleet)

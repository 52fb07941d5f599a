import asyncio
from types import SimpleNamespace
from typing import Any

from deployments.diffusion.router import ModelRouter


def replica(name: str, *models: str) -> Any:
    return SimpleNamespace(name=name, routing_stats={"models": list(models)} if models else {})


def groups(replicas: list[Any], model: str) -> list[set[str]]:
    router = ModelRouter.__new__(ModelRouter)  # what it decides needs no connection to Serve
    request: Any = SimpleNamespace(metadata=SimpleNamespace(multiplexed_model_id=model))
    chosen = asyncio.run(router.choose_replicas(replicas, request))
    return [{each.name for each in group} for group in chosen]


def test_replicas_that_have_the_model_come_first() -> None:
    replicas = [replica("cold"), replica("warm", "fake"), replica("other", "xl"), replica("both", "xl", "fake")]
    assert groups(replicas, "fake") == [{"warm", "both"}, {"cold", "other"}]
    assert groups(replicas, "xl") == [{"other", "both"}, {"cold", "warm"}]


def test_two_of_a_group_are_asked() -> None:
    replicas = [replica(str(number), "fake") for number in range(6)]
    asked = [groups(replicas, "fake")[0] for _ in range(50)]
    assert {len(each) for each in asked} == {2}
    assert set.union(*asked) == set("012345")


def test_a_call_that_names_no_model_may_go_anywhere() -> None:
    assert groups([replica("a", "fake"), replica("b")], "") == [{"a", "b"}]


def test_without_replicas_there_is_nothing_to_choose() -> None:
    assert groups([], "fake") == []

"""Real nodes that come and go; what a burst does to a service, and more load than it can bear."""

import pytest

from loadtest.bench import overload, scaling
from tests import cluster

pytestmark = pytest.mark.slow


def test_gpu_nodes_come_from_zero_spread_the_replicas_lose_nothing_when_killed_and_leave_when_idle() -> None:
    run = cluster.measure()  # raises where any of it does not come, or where a task fails
    assert run.first_image_s["GPU node"] < run.first_image_s["generator"] < run.first_image_s["image"]
    assert all(parts["process"] > 0 for parts in run.start_parts_s.values())
    assert run.tasks >= cluster.TASKS_AT_ONCE
    assert run.idle_s.keys() == {"no generator", "no embedder", "no GPU node"}


def test_overload_is_answered_with_nothing_but_what_it_may_be_answered_with() -> None:
    found = overload.measure(seconds=45, capacity_s=10)
    assert found.answers.wrong == []
    assert found.answers.statuses["200"] > 0
    assert found.answers.statuses["503"] > found.answers.statuses["200"]


def test_a_burst_brings_a_second_replica_of_each_stage() -> None:
    found = scaling.measure(list(scaling.STAGES), rounds=1)  # raises where a second one does not come
    assert found[scaling.WITH_TORCH].parts_s.keys() >= {"process", "import", "load", "warm"}

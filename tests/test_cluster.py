"""A burst, and more load than a service can bear. (Nodes that come and go: `python -m tests.cluster`, by hand.)"""

import json
from dataclasses import asdict

import pytest

from loadtest.bench import overload, scaling

pytestmark = pytest.mark.slow


def test_overload_is_answered_with_nothing_but_what_it_may_be_answered_with() -> None:
    found = overload.measure(seconds=45, capacity_s=10)
    assert found.answers.wrong == []
    assert found.answers.statuses["200"] > 0
    assert found.answers.statuses["503"] > found.answers.statuses["200"]
    assert json.loads(json.dumps(asdict(found)))["answers"]["statuses"] == found.answers.statuses


def test_a_burst_brings_a_second_replica_of_each_stage() -> None:
    found = scaling.measure(list(scaling.STAGES), rounds=1)  # raises where a second one does not come
    assert found[scaling.WITH_TORCH].parts_s.keys() >= {"process", "import", "load", "warm"}

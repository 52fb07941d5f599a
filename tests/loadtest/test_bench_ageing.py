"""The benchmark of ageing: every cell, and what its two ends mean."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from loadtest.bench import ageing
from loadtest.bench.engine.queues import continuous, poisson


def test_every_value_is_compared_on_every_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "ageing.json"
    monkeypatch.setattr("sys.argv", ["ageing", "--images", "40", "--seeds", "1", "--json", str(figures)])
    ageing.main()
    found = json.loads(figures.read_text())
    assert len(found) == len(ageing.CASES) * len(ageing.LOADS) * len(ageing.AGEING)
    assert all(cell["mean"] > 0 and cell["p95"] > 0 for cell in found)
    assert "in order" in capsys.readouterr().out


def test_the_ends_are_the_shortest_first_and_in_order() -> None:
    run = poisson(200, 2.0, np.random.default_rng(1), steps=(4, 20))
    shortest, in_order = (continuous(run, ageing.CPU, value) for value in (0.0, ageing.IN_ORDER))
    assert np.mean(shortest) < np.mean(in_order)
    assert max(shortest) > max(in_order)
    ends = [arrival.at_s + latency_s for arrival, latency_s in zip(run, in_order, strict=True)]
    assert sum(later < earlier for earlier, later in pairwise(ends)) < len(ends) / 10

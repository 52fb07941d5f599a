"""The benchmark of attacks in short: a client with one request a second is served beside them. No times are judged."""

import json
from pathlib import Path

import pytest

from loadtest.bench.attack.__main__ import MOST_GROWTH_MB, main


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(
    ("attack", "answer"),
    [("C1 codecs", "422"), ("H3 nested JSON", "422"), ("H4 large heads", "431"), ("H5 slow names", "422")],
)
def test_a_client_is_served_beside_an_attack(
    attack: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = tmp_path / "attack.json"
    monkeypatch.setattr("sys.argv", ["attack", "--only", attack, "--seconds", "5", "--json", str(figures)])
    main()
    (row,) = json.loads(figures.read_text())["now"]
    assert row["attacked"]["failures"] == row["calm"]["failures"] == {}
    assert len(row["attacked"]["latencies_s"]) > 0  # how many fit into the time is a matter of the machine
    assert row["growth_mb"] <= MOST_GROWTH_MB
    assert row["answers"].get(answer, 0) > 0

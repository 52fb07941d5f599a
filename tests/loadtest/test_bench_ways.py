"""The benchmark of the ways in, in short."""

import json
import sys
from pathlib import Path

import pytest

from loadtest.bench.ways.__main__ import main


@pytest.mark.slow
def test_every_way_is_measured_beside_the_same_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ways.json"
    monkeypatch.setattr(sys, "argv", ["ways", "--rounds", "1", "--requests", "2", "--json", str(path)])
    main()
    found = {each["way"]: each for each in json.loads(path.read_text())}
    assert found.keys() == {"JSON", "form", "OpenAI", "MCP"}
    assert all(each["request_ms"] > each["data_ms"] >= 0 for each in found.values())

"""The benchmark of the background remover: all of it once, on a small net."""

import json
from pathlib import Path

import pytest

from loadtest.bench import background


@pytest.mark.slow
def test_every_number_of_runs_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "background.json"
    options = ["--images", "2", "--threads", "1", "--embed-dim", "24", "--json", str(figures)]
    monkeypatch.setattr("sys.argv", ["background", *options])
    background.main()
    found = json.loads(figures.read_text())
    assert [each["runs"] for each in found] == list(background.RUNS)
    assert all(each["images_per_s"] > 0 and each["peak_mb"] > 100 for each in found)
    assert "2 images of 1024x1024" in capsys.readouterr().out

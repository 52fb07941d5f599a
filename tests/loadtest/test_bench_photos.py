"""The benchmark of the largest photos, on small ones."""

import json
import sys
from pathlib import Path

import pytest

from loadtest.bench.photos.__main__ import main
from serve_app.photos.decode import PhotoSettings
from serve_app.sandbox.process import SandboxSettings


@pytest.mark.skipif(sys.platform != "linux", reason="/proc of Linux")
def test_each_format_has_a_row_with_what_it_needs_beside_its_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "photos.json"
    monkeypatch.setattr("sys.argv", ["photos", "--scale", "0.02", "--json", str(figures)])
    main()
    rows = json.loads(figures.read_text())
    kinds = {row["name"].partition(",")[0] for row in rows}
    assert kinds == {"JPEG", "PNG", "WebP", "AVIF", "HEIC"}
    most = PhotoSettings().max_jpeg_pixels / 1e6
    assert (rows[0]["megapixels"], rows[0]["max_megapixels"]) == (pytest.approx(most * 0.02), most)
    assert all(0 < row["peak_mb"] < SandboxSettings().max_memory_bytes / 1e6 for row in rows)
    assert all(row["name"] in capsys.readouterr().out for row in rows[:1])

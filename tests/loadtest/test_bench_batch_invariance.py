"""The benchmark of batch invariance: what it compares, and the whole of it once, with one other image."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from loadtest.bench import batch_invariance
from loadtest.bench.batch_invariance import main, peak_signal_to_noise
from loadtest.bench.instruction_sets import BASELINE


def test_equal_pictures_have_no_noise_and_one_level_everywhere_is_48_decibels() -> None:
    picture = np.full((4, 4, 3), 100, np.uint8)
    assert peak_signal_to_noise(picture, picture) == math.inf
    assert peak_signal_to_noise(picture + 1, picture) == pytest.approx(48.13, abs=0.01)


@pytest.mark.slow
def test_an_image_amid_another_is_compared_with_itself_alone_in_both_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(batch_invariance, "wider_sets", lambda: [BASELINE])
    extent = ["--dtypes", "float32", "--steps", "1", "--others", "1", "--rounds", "1"]
    monkeypatch.setattr("sys.argv", ["batch_invariance", *extent, "--json", str(tmp_path / "found.json")])
    main()
    off, on = json.loads((tmp_path / "found.json").read_text())
    assert (off["batch_invariant"], on["batch_invariant"]) == (False, True)
    assert (on["most_levels"], on["psnr_db"]) == (0, None)
    assert min(on["alone_s"], on["amid_processor_s"]) > 0
    assert capsys.readouterr().out.count("SSE4.1") == 2

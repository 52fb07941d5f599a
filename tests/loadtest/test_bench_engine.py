"""The engine's benchmark: its baselines by hand, its step times, and the whole of it once, quickly."""

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from loadtest.bench.engine.__main__ import AGAINST, ARRIVALS, ASSUMED, LOADS, main, read_curves
from loadtest.bench.engine.live import run
from loadtest.bench.engine.queues import (
    BURST,
    MODEL,
    STEPS,
    Arrival,
    Bar,
    Curve,
    Latency,
    Server,
    SleepingDenoiser,
    backlog,
    bursty,
    continuous,
    grouped,
    one_at_a_time,
    padded,
    poisson,
)

CURVE = Curve.line("by hand", 1.0, 1.0)  # 2 s, 3 s, 4 s ...
FOUR = [Arrival(0, 2), Arrival(1, 1), Arrival(1, 2), Arrival(2, 1)]


@pytest.mark.parametrize(
    ("server", "expected_s"),
    [
        (one_at_a_time, [4, 5, 9, 10]),
        (grouped, [4, 6, 10, 5]),  # the second and the last together, as both want one step
        (padded, [4, 11, 11, 10]),  # all that came during the first: two steps of 4 s for each of them
        (continuous, [6, 5, 9, 4]),  # after a step of 2 s, the three with one more make it in 4 s, ahead of the fourth
    ],
)
def test_each_server_takes_as_long_as_by_hand(server: Server, expected_s: list[float]) -> None:
    assert server(FOUR, CURVE) == expected_s


def test_a_group_is_not_larger_than_a_step_of_the_engine() -> None:
    nine = [Arrival(0, 1)] * 9
    assert grouped(nine, CURVE) == padded(nine, CURVE) == [9] * 8 + [11]


def test_a_server_without_work_waits_for_the_next_arrival() -> None:
    for server in (one_at_a_time, grouped, padded, continuous):
        assert server([Arrival(5, 1), Arrival(50, 2)], CURVE) == [2, 4]


@pytest.mark.parametrize("arrive", ARRIVALS.values(), ids=ARRIVALS)
def test_arrivals_come_in_order_at_their_rate_with_every_step_count(arrive) -> None:  # type: ignore[no-untyped-def]
    arrivals = arrive(4000, 5.0, np.random.default_rng(1), STEPS)
    times_s = [arrival.at_s for arrival in arrivals]
    assert times_s == sorted(times_s)
    assert len(arrivals) / times_s[-1] == pytest.approx(5, rel=0.1)
    assert set(Counter(arrival.steps for arrival in arrivals)) == set(STEPS)


def test_only_bursts_have_several_images_at_the_same_moment() -> None:
    bursts = Counter(arrival.at_s for arrival in bursty(1000, 1.0, np.random.default_rng(1)))
    assert set(bursts.values()) == set(range(1, BURST + 1))
    singles = Counter(arrival.at_s for arrival in poisson(1000, 1.0, np.random.default_rng(1)))
    assert set(singles.values()) == {1}
    assert {arrival.at_s for arrival in backlog(10, np.random.default_rng(1))} == {0}


def test_a_curve_counts_two_rows_of_the_batch_for_each_image() -> None:
    curve = ASSUMED[0]
    assert [curve.step_s(images) for images in (1, 8)] == pytest.approx([0.020, 0.062])
    assert [curve.batch_s(batch_size) for batch_size in (1, 2, 3, 16)] == pytest.approx([0.017, 0.020, 0.023, 0.062])
    assert curve.faster(2).step_s(1) == pytest.approx(0.010)


def test_a_curve_of_a_model_without_guidance_counts_one_row_for_each_image() -> None:
    curve = Curve.line("single", 1.0, 1.0, rows=1, steps=(4,))
    assert curve.images == 16  # as many rows as of eight images with guidance
    assert [curve.batch_s(rows) for rows in (1, 2, 16)] == [2, 3, 17]
    assert curve.slower(1).rows == curve.faster(2).rows == 1
    at_once = [Arrival(0, 4)] * 17
    assert max(grouped(at_once, curve)) == 4 * (17 + 2)
    assert continuous([Arrival(0, 4), Arrival(0, 4), Arrival(3, 4)], curve) == [12, 12, 17]  # to join would cost more


def test_the_simulation_of_klein_names_its_curves_as_assumed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["engine", "--klein", "--quick"])
    main()
    said = capsys.readouterr().out
    assert "assumed, not measured: klein 512, klein 1024" in said
    assert all(said.count(f"klein {size} ") >= 2 * len(ARRIVALS) * len(LOADS) for size in (512, 1024))
    monkeypatch.setattr(sys, "argv", ["engine", "--klein", "--plot", "x.svg"])
    with pytest.raises(SystemExit):
        main()


def test_a_latency_tells_the_shortest_requests_from_the_others() -> None:
    latency = Latency.of([Arrival(0, 8), Arrival(0, 50), Arrival(0, 8)], [1.0, 6.0, 2.0])
    assert latency.mean_s == 3
    assert latency.shortest_s == 1.5
    assert Latency(4.0, 9.0, 3.0).over(latency).shortest_s == 2


def test_a_bar_is_met_on_its_own_side() -> None:
    assert Bar("", 2.0, 1.8).met
    assert not Bar("", 1.7, 1.8).met
    assert Bar("", 1.4, 1.5, at_most=True).met
    assert not Bar("", 1.6, 1.5, at_most=True).met


def test_the_engine_itself_takes_at_least_the_time_of_the_steps() -> None:
    curve = Curve.line("short", 0.002, 0.001)
    arrivals = [Arrival(0, 4), Arrival(0.005, 2), Arrival(0.005, 3)]
    denoiser = SleepingDenoiser(curve)
    done = run(denoiser, MODEL, curve.profile(), arrivals, side=512)
    for arrival, latency_s in zip(arrivals, done.latencies_s, strict=True):
        assert latency_s >= 0.99 * arrival.steps * curve.step_s(1)
    assert done.step_s >= curve.step_s(1)
    assert 0 < done.own_s < done.cost.whole_s
    assert len(done.joins) == 2  # before the first one's step there was none
    assert len(denoiser.late_s) >= 4


def test_measured_curves_need_a_time_for_every_number_of_images(tmp_path: Path) -> None:
    path = tmp_path / "curves.json"
    path.write_text(json.dumps({"512": [0.1] * 8, "1024": [0.2] * 8}))
    assert [curve.name for curve in read_curves(path)] == ["512", "1024"]
    path.write_text(json.dumps({"512": [0.1] * 8, "1024": [0.2]}))
    with pytest.raises(ValueError, match="1024"):
        read_curves(path)


@pytest.mark.slow
def test_the_quick_run_fills_every_cell(tmp_path: Path) -> None:
    figures, picture = tmp_path / "engine.json", tmp_path / "engine.svg"
    command = [sys.executable, "-m", "loadtest.bench.engine", "--quick", "--json", figures, "--plot", picture]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(figures.read_text())
    cells = {(cell["curve"], cell["arrivals"], cell["load"]) for cell in report["cells"]}
    assert cells == set(itertools.product(AGAINST, ARRIVALS, LOADS))
    assert report["assumed"] == list(AGAINST)
    for cell in report["cells"]:
        assert {"engine", cell["against"]} <= cell["latency"].keys()
        assert all(isinstance(bar["met"], bool) for bar in cell["bars"])
    assert [saturation["curve"] for saturation in report["saturations"]] == list(AGAINST)
    assert all(seconds > 0 for seconds in report["live"]["engine"].values())
    assert report["embedded"]["engine"]["images_per_s"] > 0
    assert report["embedded"]["library"].keys() == {"1", "4"}
    assert picture.read_text().startswith("<svg xmlns")
    assert "diffusers, 4 at a time" in done.stdout

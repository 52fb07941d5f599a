"""The recording of a real service under three loads, which the simulator is held against."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.plan.reality import __main__ as reality
from loadtest.plan.reality.loads import SHAPES, drawn
from loadtest.plan.reality.recording import MOST_OFF, RECORDED, Recording, compared


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording.read(RECORDED)


# The two processors of this recording did much else: photos and starts of generators waited for each other, which the
# simulator does not know. A recording of a machine that is calm should leave nothing here.
MISSED = {
    ("steady", "p95"),
    ("step", "p50"),
    ("step", "p95"),
    ("step", "replica-seconds"),
    ("burst", "p50"),
    ("burst", "p95"),
}


def test_the_simulator_comes_as_near_to_a_recorded_service_as_is_said(recording: Recording) -> None:
    found = compared(recording)
    assert len(found) == len(SHAPES) * len(MOST_OFF)
    assert {(each.load, each.figure) for each in found if not each.met} == MISSED


def test_the_recording_has_five_runs_of_each_load_and_says_where_it_is_from(recording: Recording) -> None:
    assert {load.name for load in recording.loads} == set(SHAPES)
    for load in recording.loads:
        runs = [run for run in recording.runs if run.load == load.name]
        assert len(runs) == 5
        assert all(len(run.latencies_s) == len(load.at_s) for run in runs)
    assert recording.command.startswith("python -m loadtest.plan.reality")
    assert recording.date
    assert recording.machine
    assert not recording.times.source.startswith("assumed")
    assert RECORDED.stat().st_size < 100_000


def test_a_recording_is_read_as_it_was_written(recording: Recording, tmp_path: Path) -> None:
    file = tmp_path / "reality.json"
    recording.write(file)
    assert Recording.read(file) == recording
    assert json.loads(file.read_text()) == json.loads(RECORDED.read_text())


def test_a_service_that_took_twice_as_long_is_told_apart(recording: Recording) -> None:
    slower = [replace(run, latencies_s=[2 * latency_s for latency_s in run.latencies_s]) for run in recording.runs]
    for before, after in zip(compared(recording), compared(replace(recording, runs=slower)), strict=True):
        share = 1 if before.figure == "replica-seconds" else 2
        assert after.ratio == pytest.approx(before.ratio / share)


def test_the_command_shows_a_recording_and_ends_with_1_where_a_bar_is_missed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert reality.main(["--replay", str(RECORDED)]) == 1
    printed = capsys.readouterr().out
    assert "replica-seconds" in printed
    assert "steps of a service" in printed


def test_a_load_is_the_same_for_the_same_seed_and_lies_within_its_time() -> None:
    for name in SHAPES:
        load = drawn(name, 3)
        assert load == drawn(name, 3) != drawn(name, 4)
        assert list(load.at_s) == sorted(load.at_s)
        assert 0 <= load.at_s[0] < load.at_s[-1] < load.seconds

"""The benchmark of gaps: its device by hand, and all of it once, shortly."""

import json
from pathlib import Path

import pytest

from loadtest.bench import gaps
from loadtest.bench.engine.queues import NO_FACE, Curve, spec_of
from loadtest.bench.gaps import (
    DECODE_LAUNCH_S,
    DECODE_S,
    ENCODE_S,
    LAUNCH_S,
    PREPARE_S,
    Clock,
    TimekeepingDenoiser,
)

STEP_S = 0.020


class ByHand(Clock):
    """Time passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def now_s(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.at_s += max(0.0, seconds)


@pytest.fixture
def clock() -> ByHand:
    return ByHand()


@pytest.fixture
def denoiser(clock: ByHand) -> TimekeepingDenoiser:
    return TimekeepingDenoiser(Curve("always", (STEP_S,)), clock)


def test_a_step_that_is_launched_during_another_leaves_no_gap_and_a_later_one_does(
    denoiser: TimekeepingDenoiser, clock: ByHand
) -> None:
    sample = denoiser.start(spec_of(3), NO_FACE)
    first = denoiser.step([sample])
    assert clock.at_s == pytest.approx(100 + PREPARE_S + LAUNCH_S)  # nothing was waited for
    second = denoiser.step([sample])
    assert [first.wait_s(), second.wait_s()] == pytest.approx([STEP_S, STEP_S])
    assert clock.at_s == pytest.approx(100 + PREPARE_S + ENCODE_S + 2 * STEP_S)
    clock.sleep(0.005)
    denoiser.step([sample])
    assert denoiser.gaps_s[1:] == pytest.approx([0, 0.005])


def test_a_device_that_prepares_an_image_between_two_steps_has_something_to_do(
    denoiser: TimekeepingDenoiser, clock: ByHand
) -> None:
    sample = denoiser.start(spec_of(3), NO_FACE)
    denoiser.step([sample]).wait_s()
    other = denoiser.start(spec_of(3), NO_FACE)
    denoiser.step([sample, other][:1])
    assert denoiser.gaps_s[1:] == pytest.approx([PREPARE_S])  # of the host, before the text encoders


def test_a_step_lasts_until_its_last_kernel_is_launched(clock: ByHand) -> None:
    denoiser = TimekeepingDenoiser(Curve("fast", (LAUNCH_S / 2,)), clock)
    assert denoiser.step([denoiser.start(spec_of(1), NO_FACE)]).wait_s() == pytest.approx(LAUNCH_S - ENCODE_S)


def test_a_picture_waits_for_its_own_steps_alone(denoiser: TimekeepingDenoiser, clock: ByHand) -> None:
    done, other = (denoiser.start(spec_of(1), NO_FACE) for _ in range(2))
    end_s = clock.at_s + ENCODE_S + STEP_S
    denoiser.step([done])
    denoiser.step([other])
    assert denoiser.decode(done).shape == (1, 1, 3)
    assert clock.at_s == pytest.approx(end_s + DECODE_S)
    assert DECODE_LAUNCH_S < DECODE_S


def test_the_whole_run_draws_every_image_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "gaps.json"
    gaps.main(["--seconds", "0.5", "--json", str(figures)])
    found = json.loads(figures.read_text())
    assert found["images"] >= gaps.UNFINISHED
    assert found["steps"] > 0
    assert 0 <= found["p50"] <= found["p99"] <= found["longest"]
    assert 1 < found["images_a_step"] <= 8
    assert found["learned_ms"] > 0
    assert "gap before a step" in capsys.readouterr().out

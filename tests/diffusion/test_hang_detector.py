"""What is a hang, and what is not, by a clock that the test turns."""

from dataclasses import dataclass

from deployments.diffusion.engine.hang_detector import (
    FIRST_GRACE_S,
    GRACE_S,
    LOOK_EVERY_S,
    OVERDUE_FACTOR,
    HangDetector,
)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def hung_after_s(forecast_s: float, *, is_first: bool = False, until_s: int = 3000) -> float | None:
    """When a detector that looks every second calls work a hang; None: not by `until_s`."""
    clock = Clock()
    detector = HangDetector(clock)
    with detector.timing(forecast_s, is_first=is_first):
        for second in range(1, until_s + 1):
            clock.now += LOOK_EVERY_S
            if detector.hung_s() is not None:
                return second * LOOK_EVERY_S
    return None


def test_work_hangs_when_it_is_a_minute_beyond_ten_times_its_forecast() -> None:
    assert hung_after_s(0.5) == OVERDUE_FACTOR * 0.5 + GRACE_S + LOOK_EVERY_S
    assert hung_after_s(30) == OVERDUE_FACTOR * 30 + GRACE_S + LOOK_EVERY_S


def test_nine_times_the_forecast_is_no_hang_however_long_it_is() -> None:
    assert hung_after_s(100, until_s=900) is None


def test_a_short_step_that_takes_most_of_a_minute_is_no_hang() -> None:
    assert hung_after_s(0.01, until_s=60) is None


def test_a_first_step_may_compile_for_minutes() -> None:
    assert hung_after_s(0.5, is_first=True, until_s=600) is None
    assert hung_after_s(0.5, is_first=True) == OVERDUE_FACTOR * 0.5 + FIRST_GRACE_S + LOOK_EVERY_S


def test_a_machine_that_was_suspended_during_a_step_has_not_hung() -> None:
    clock = Clock()
    detector = HangDetector(clock)
    with detector.timing(0.5):
        for _ in range(10):
            clock.now += 3600
            assert detector.hung_s() is None


def test_work_that_ends_hides_no_other_that_hangs() -> None:
    clock = Clock()
    detector = HangDetector(clock)
    with detector.timing(0.0):
        for _ in range(int(GRACE_S) + 10):
            with detector.timing(0.0):
                clock.now += LOOK_EVERY_S
                detector.hung_s()
        assert detector.hung_s() == GRACE_S + 10
    assert detector.hung_s() is None


def test_the_time_of_one_step_is_not_charged_to_the_next_nor_to_idleness() -> None:
    clock = Clock()
    detector = HangDetector(clock)
    for _ in range(100):
        with detector.timing(0.5):
            clock.now += LOOK_EVERY_S
            assert detector.hung_s() is None
        clock.now += 1000
        assert detector.hung_s() is None

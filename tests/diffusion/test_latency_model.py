import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.diffusion.engine.latency_model import FORGET_AFTER_STEPS, LatencyModel

BUCKET = ("model", (512, 512, 1))
LARGE = ("model", (1024, 1024, 1))


def times(fixed_s: float, row_s: float, max_batch_size: int = 16) -> LatencyModel:
    learned = LatencyModel(max_batch_size)
    learned.set_profile("model", {batch_size: fixed_s + row_s * batch_size for batch_size in (1, 2, 4, 8, 16)})
    return learned


def test_where_more_rows_cost_little_all_of_them_share_a_step() -> None:
    assert times(0.014, 0.003).cap(BUCKET) == 16


def test_where_one_row_fills_the_device_few_share_a_step() -> None:
    assert times(0.006, 0.012).cap(BUCKET) == 6
    assert times(0.0, 0.03).cap(BUCKET) == 1


def test_what_was_not_measured_lies_on_the_line_of_what_was() -> None:
    learned = LatencyModel(16)
    learned.add(BUCKET, 2, 0.020)
    learned.add(BUCKET, 8, 0.038)
    assert learned.step_s(BUCKET, 4) == pytest.approx(0.026)
    assert learned.step_s(BUCKET, 16) == pytest.approx(0.062)


def test_a_size_of_which_one_step_is_known_has_the_form_of_the_profile() -> None:
    learned = times(0.014, 0.003)
    learned.add(LARGE, 2, 0.080)  # four times the profile's
    assert learned.step_s(LARGE, 8) == pytest.approx(4 * 0.038)


def test_steps_are_learned_from() -> None:
    learned = times(0.014, 0.003)
    for _ in range(100):
        for batch_size in (1, 2, 4, 8, 16):
            learned.add(BUCKET, batch_size, 0.006 + 0.012 * batch_size)
    assert learned.step_s(BUCKET, 2) == pytest.approx(0.030, rel=0.01)
    assert learned.cap(BUCKET) == 6


def test_a_width_that_was_not_seen_for_long_is_forgotten() -> None:
    learned = times(0.014, 0.003)
    learned.add(BUCKET, 16, 60.0)  # the machine was busy
    for _ in range(FORGET_AFTER_STEPS + 1):
        learned.add(BUCKET, 2, 0.020)
    assert learned.step_s(BUCKET, 16) == pytest.approx(0.062)


def test_a_step_that_did_not_fit_halves_the_cap_of_its_size_alone() -> None:
    learned = times(0.014, 0.003)
    learned.out_of_memory(BUCKET, 16)
    assert (learned.cap(BUCKET), learned.cap(LARGE)) == (8, 16)
    learned.out_of_memory(BUCKET, 1)
    assert learned.cap(BUCKET) == 1


def test_without_any_knowledge_all_share_a_step() -> None:
    assert LatencyModel(8).cap(BUCKET) == 8


@given(st.dictionaries(st.integers(1, 16), st.floats(1e-4, 10), max_size=8), st.integers(1, 16))
def test_whatever_was_measured_the_cap_is_one_to_the_most(measured: dict[int, float], most: int) -> None:
    learned = LatencyModel(most)
    for batch_size, seconds in measured.items():
        learned.add(BUCKET, batch_size, seconds)
    assert 1 <= learned.cap(BUCKET) <= most
    assert all(learned.step_s(BUCKET, batch_size) > 0 for batch_size in range(1, most + 1))


def test_steps_that_a_clock_gives_no_time_leave_a_cap() -> None:
    learned = LatencyModel(16)
    learned.add(BUCKET, 2, 0.0)
    assert learned.cap(BUCKET) == 1

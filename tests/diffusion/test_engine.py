"""The engine with a denoiser that counts: who shares which step, and what happens when something goes wrong."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from queue import SimpleQueue
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.diffusion.engine import engine as engine_module
from deployments.diffusion.engine import hang_detector
from deployments.diffusion.engine.denoiser import OutOfMemoryError
from deployments.diffusion.engine.engine import DiffusionEngine, Launch
from deployments.diffusion.engine.hang_detector import HangDetector
from deployments.diffusion.engine.latency_model import LatencyModel
from deployments.diffusion.engine.scheduler import Bucket, Row
from deployments.errors import DeadlineError, DeviceLostError, NotBegunError
from deployments.types import ImageProgress
from tests.support import polling
from tests.support.fakes import Count, CountingDenoiser, avatar_spec, face

WAIT_S = 10
LOST = DeviceLostError("the device does not respond")


class Log:
    def __init__(self) -> None:
        self.joins: list[int] = []
        self.steps: list[tuple[list[int], Mapping[Bucket, int]]] = []

    def joined(self, rows: Sequence[Row]) -> None:
        self.joins += [row.spec.seed for row in rows]

    def stepped(self, launch: Launch, seconds: float, waiting: Mapping[Bucket, int]) -> None:
        assert seconds >= 0
        self.steps.append(([row.spec.seed for row in launch.rows], waiting))


class Unmoved(LatencyModel):
    """A step of many takes no longer than one of few, whatever is measured of steps that do nothing."""

    def add(self, bucket: Bucket, batch_size: int, seconds: float) -> None:
        pass


def engine_of(images: int = 4, log: Log | None = None, hangs: HangDetector | None = None) -> DiffusionEngine:
    times = Unmoved(max_batch_size=2 * images)
    times.set_profile("fake", dict.fromkeys((1, 2, 4, 8), 1.0))
    return DiffusionEngine(times, ageing=0.3, observer=log, hangs=hangs)


@pytest.fixture
def denoiser() -> CountingDenoiser:
    return CountingDenoiser()


@pytest.fixture
def desk(denoiser: CountingDenoiser) -> Iterator["Desk"]:
    engine = engine_of()
    yield Desk(engine, denoiser)
    denoiser.gate.set()
    engine.close()
    assert not engine.alive


@dataclass
class Desk:
    """An engine, and the denoiser that all who come get."""

    engine: DiffusionEngine
    denoiser: CountingDenoiser

    def submit(self, seed: int, steps: int = 3, **changes: object) -> Row:
        spec = avatar_spec(seed=seed, num_inference_steps=steps, **changes)
        return self.engine.submit(spec, face(), self.denoiser)


def shown(row: Row) -> int:
    """The seed that a row's picture shows."""
    pixels = row.future.result(WAIT_S).pixels
    assert np.all(pixels == pixels.flat[0])
    return int(pixels.flat[0])


def test_every_row_gets_its_own_picture(desk: Desk) -> None:
    rows = [desk.submit(seed, steps=seed) for seed in range(1, 7)]
    assert [shown(row) for row in rows] == [1, 2, 3, 4, 5, 6]


def test_a_row_joins_the_others_at_the_next_step_and_leaves_when_it_is_done(
    desk: Desk, denoiser: CountingDenoiser
) -> None:
    denoiser.gate.clear()
    long = desk.submit(1, steps=4)
    assert denoiser.started.wait(WAIT_S)
    short = desk.submit(2, steps=2)  # the first step of the other is under way
    denoiser.gate.set()
    assert (shown(long), shown(short)) == (1, 2)
    assert [sorted(batch) for batch in denoiser.batches] == [[1], [1, 2], [1, 2], [1]]


@pytest.mark.parametrize("is_asynchronous", [False, True])
def test_the_time_of_a_step_is_that_of_the_rows_which_it_took(is_asynchronous: bool) -> None:
    denoiser, times = CountingDenoiser(sizes=(1, 2, 3)), LatencyModel(max_batch_size=8)
    denoiser.is_asynchronous = is_asynchronous
    desk = Desk(DiffusionEngine(times, ageing=0.3), denoiser)
    row = desk.submit(1, steps=3)
    assert shown(row) == 1
    polling.poll(lambda: times.is_measured(row.bucket, 3))
    desk.engine.close()
    assert [times.is_measured(row.bucket, size) for size in (1, 2, 4)] == [True, True, False]


def test_rows_of_different_sizes_share_no_step(desk: Desk, denoiser: CountingDenoiser) -> None:
    denoiser.gate.clear()
    rows = [desk.submit(seed, width=4 * (1 + seed % 2)) for seed in (1, 2, 3, 4)]
    denoiser.gate.set()
    assert [shown(row) for row in rows] == [1, 2, 3, 4]
    assert all(len({seed % 2 for seed in batch}) == 1 for batch in denoiser.batches)


def test_rows_that_join_at_one_step_are_prepared_together(desk: Desk, denoiser: CountingDenoiser) -> None:
    denoiser.gate.clear()
    first = desk.submit(1)
    assert denoiser.started.wait(WAIT_S)
    others = [desk.submit(seed) for seed in (2, 3)]
    denoiser.gate.set()
    assert [shown(row) for row in (first, *others)] == [1, 2, 3]
    assert [sorted(seeds) for seeds in denoiser.prepared] == [[1], [2, 3]]


def test_rows_that_wait_for_a_thread_are_prepared_together_up_to_a_limit_and_one_that_cannot_be_fails_none(
    desk: Desk, denoiser: CountingDenoiser
) -> None:
    denoiser.is_asynchronous, denoiser.unpreparable = True, 5
    denoiser.start_gates = {seed: threading.Event() for seed in (1, 2)}
    rows = [desk.submit(seed) for seed in range(1, 9)]
    polling.poll(lambda: len(denoiser.prepared) == 2)  # both threads wait for a gate
    denoiser.start_gates[1].set()
    assert [shown(row) for row in (rows[0], *rows[2:])] == [1, 3, 4, 5, 6, 7, 8]
    denoiser.start_gates[2].set()
    assert shown(rows[1]) == 2
    assert denoiser.prepared[2] == [3, 2, 4, 5]
    assert denoiser.prepared[-1] == [8, 2]


def test_a_cancelled_row_is_gone_before_the_next_step_and_holds_up_nobody(
    desk: Desk, denoiser: CountingDenoiser
) -> None:
    denoiser.gate.clear()
    gone, stays = desk.submit(1, steps=50), desk.submit(2, steps=3)
    assert denoiser.started.wait(WAIT_S)
    gone.future.cancel()
    denoiser.gate.set()
    assert shown(stays) == 2
    assert sum(1 in batch for batch in denoiser.batches) <= 1


def test_a_row_that_cannot_be_drawn_fails_alone(desk: Desk, denoiser: CountingDenoiser) -> None:
    denoiser.poison = 3
    denoiser.gate.clear()
    rows = [desk.submit(seed) for seed in (2, 3, 4)]
    denoiser.gate.set()
    assert (shown(rows[0]), shown(rows[2])) == (2, 4)
    with pytest.raises(ValueError, match="seed 3"):
        rows[1].future.result(WAIT_S)


@pytest.mark.parametrize("is_asynchronous", [False, True])
def test_a_prompt_that_cannot_be_started_fails_alone(
    desk: Desk, denoiser: CountingDenoiser, monkeypatch: pytest.MonkeyPatch, is_asynchronous: bool
) -> None:
    denoiser.is_asynchronous = is_asynchronous
    start = denoiser.start

    def fails_for_seven(spec: object, vector: object) -> object:
        if spec.seed == 7:  # type: ignore[attr-defined]
            raise ValueError("no prompt")
        return start(spec, vector)  # type: ignore[arg-type]

    monkeypatch.setattr(denoiser, "start", fails_for_seven)
    denoiser.gate.clear()
    rows = [desk.submit(seed) for seed in (6, 7, 8)]
    denoiser.gate.set()
    assert (shown(rows[0]), shown(rows[2])) == (6, 8)
    with pytest.raises(ValueError, match="no prompt"):
        rows[1].future.result(WAIT_S)


def test_no_step_waits_for_a_row_that_is_prepared_which_joins_when_it_is(
    desk: Desk, denoiser: CountingDenoiser
) -> None:
    denoiser.is_asynchronous, denoiser.start_gates = True, {2: threading.Event()}
    slow = desk.submit(2, task_id="slow")
    assert shown(desk.submit(1)) == 1
    assert [(each.task_id, each.step, each.queue_position) for each in desk.engine.progress()] == [("slow", 0, 1)]
    denoiser.start_gates[2].set()
    assert shown(slow) == 2
    assert denoiser.batches == [[1]] * 3 + [[2]] * 3


def test_a_row_that_lacks_memory_when_it_is_prepared_is_started_with_its_first_step(
    desk: Desk, denoiser: CountingDenoiser
) -> None:
    denoiser.is_asynchronous, denoiser.unstartable = True, [1]
    assert shown(desk.submit(1)) == 1
    denoiser.unstartable = [2, 2, 2]
    with pytest.raises(OutOfMemoryError):
        desk.submit(2).future.result(WAIT_S)
    assert denoiser.unstartable == []
    assert shown(desk.submit(3)) == 3


@pytest.mark.parametrize("late", [False, True])
def test_a_row_that_is_given_up_while_it_is_prepared_makes_no_step(
    desk: Desk, denoiser: CountingDenoiser, late: bool, poll: Callable[..., object]
) -> None:
    denoiser.is_asynchronous, denoiser.start_gates = True, {1: threading.Event()}
    row = desk.submit(1, deadline=time.time() if late else 1e12)
    if not late:
        row.future.cancel()
    denoiser.start_gates[1].set()
    with pytest.raises(DeadlineError if late else CancelledError):
        row.future.result(WAIT_S)
    poll(lambda: not desk.engine.progress())
    assert shown(desk.submit(2)) == 2
    assert denoiser.batches == [[2]] * 3
    assert not desk.engine._samples


@pytest.mark.parametrize("is_asynchronous", [False, True])
def test_the_model_of_a_row_that_is_given_up_is_used_until_its_step_has_ended(
    desk: Desk, denoiser: CountingDenoiser, is_asynchronous: bool, poll: Callable[..., object]
) -> None:
    denoiser.is_asynchronous = is_asynchronous
    gate = denoiser.end_gate if is_asynchronous else denoiser.gate
    gate.clear()
    row = desk.submit(1, steps=9)
    assert denoiser.started.wait(WAIT_S)
    row.future.cancel()
    if is_asynchronous:
        poll(lambda: not desk.engine.progress())
    waiting = threading.Thread(target=desk.engine.await_unused, args=[row])
    waiting.start()
    assert desk.engine._is_using(row)
    gate.set()
    waiting.join(WAIT_S)
    assert not waiting.is_alive()


def test_closing_cancels_rows_that_are_prepared(denoiser: CountingDenoiser) -> None:
    engine = engine_of()
    denoiser.is_asynchronous, denoiser.start_gates = True, {1: threading.Event()}
    row = Desk(engine, denoiser).submit(1)
    closing = threading.Thread(target=engine.close)
    closing.start()
    with pytest.raises(CancelledError):
        row.future.result(WAIT_S)
    denoiser.start_gates[1].set()
    closing.join(WAIT_S)
    assert not closing.is_alive()
    assert engine.progress() == []
    assert not engine._samples


def test_one_step_is_launched_while_another_runs_and_no_more(
    desk: Desk, denoiser: CountingDenoiser, poll: Callable[..., object]
) -> None:
    denoiser.is_asynchronous = True
    denoiser.end_gate.clear()
    first = desk.submit(1, steps=4)
    poll(lambda: len(denoiser.batches) == 2)
    second = desk.submit(2, steps=2)
    poll(lambda: not desk.engine._preparing)
    denoiser.end_gate.set()
    assert (shown(first), shown(second)) == (1, 2)
    assert [sorted(batch) for batch in denoiser.batches] == [[1], [1], [1, 2], [1, 2]]


def test_no_row_waits_for_the_picture_of_another_though_no_step_was_left(
    desk: Desk, denoiser: CountingDenoiser, poll: Callable[..., object]
) -> None:
    denoiser.is_asynchronous = True
    denoiser.overlap_gate.clear()
    first = desk.submit(1, steps=1)
    assert denoiser.started.wait(WAIT_S)
    second = desk.submit(2, steps=1)
    poll(lambda: len(denoiser.batches) == 2)
    denoiser.overlap_gate.set()
    assert (shown(first), shown(second)) == (1, 2)


def test_the_time_that_is_learned_of_a_step_is_the_devices(denoiser: CountingDenoiser) -> None:
    times = LatencyModel(max_batch_size=8)
    engine = DiffusionEngine(times, ageing=0.3)
    denoiser.is_asynchronous, denoiser.step_s = True, 7.0
    assert shown(Desk(engine, denoiser).submit(1)) == 1
    engine.close()
    assert times.step_s(("fake", (4, 4)), 2) == 7.0


def test_a_step_that_fails_after_its_launch_fails_its_rows_alone(desk: Desk, denoiser: CountingDenoiser) -> None:
    denoiser.is_asynchronous = True
    denoiser.end_gate.clear()
    denoiser.end_errors = [ValueError("a kernel failed")]
    failing = desk.submit(1, steps=50)
    assert denoiser.started.wait(WAIT_S)
    other = desk.submit(2, width=8)  # shares no step
    denoiser.end_gate.set()
    with pytest.raises(ValueError, match="a kernel failed"):
        failing.future.result(WAIT_S)
    assert shown(other) == 2
    assert len(denoiser.batches) < 50
    assert desk.engine.progress() == []


def test_a_device_that_is_lost_during_a_step_is_noticed_at_its_end(denoiser: CountingDenoiser) -> None:
    engine = engine_of()
    desk = Desk(engine, denoiser)
    denoiser.is_asynchronous = True
    denoiser.end_gate.clear()
    denoiser.end_errors = [LOST]
    rows = [desk.submit(seed, steps=50) for seed in (1, 2)]
    assert denoiser.started.wait(WAIT_S)
    denoiser.end_gate.set()
    assert [row.future.exception(WAIT_S) for row in rows] == [LOST, LOST]
    assert not engine.alive
    engine.close()
    assert len(denoiser.batches) <= 2


def test_memory_that_a_picture_takes_meanwhile_makes_no_step_smaller_for_ever(
    desk: Desk, denoiser: CountingDenoiser, poll: Callable[..., object]
) -> None:
    denoiser.is_asynchronous = True
    denoiser.overlap_gate.clear()
    picture = desk.submit(1, steps=1)
    poll(lambda: [each.step for each in desk.engine.progress()] == [1])
    denoiser.gate.clear()
    denoiser.started.clear()
    rows = [desk.submit(2)]
    assert denoiser.started.wait(WAIT_S)
    rows += [desk.submit(seed) for seed in (3, 4)]
    poll(lambda: not desk.engine._preparing)
    denoiser.fits = 2  # beside a picture
    denoiser.gate.set()
    poll(lambda: denoiser.refused)
    denoiser.fits = 3
    denoiser.overlap_gate.set()
    assert [shown(row) for row in [picture, *rows]] == [1, 2, 3, 4]
    assert max(map(len, denoiser.batches)) == 3
    assert denoiser.refused == [3]


def test_a_picture_whose_decoding_ends_before_the_lack_of_memory_is_noticed_makes_no_step_smaller(
    desk: Desk, denoiser: CountingDenoiser, monkeypatch: pytest.MonkeyPatch, poll: Callable[..., object]
) -> None:
    denoiser.is_asynchronous = True
    denoiser.overlap_gate.clear()
    step = denoiser.step

    def is_refused_beside_a_picture(samples: Sequence[Count]) -> object:
        try:
            return step(samples)
        except OutOfMemoryError:
            denoiser.fits = 100
            denoiser.overlap_gate.set()
            assert shown(picture) == 1
            raise

    monkeypatch.setattr(denoiser, "step", is_refused_beside_a_picture)
    picture = desk.submit(1, steps=1)
    poll(lambda: [each.step for each in desk.engine.progress()] == [1])
    denoiser.fits = 0
    assert shown(desk.submit(2)) == 2
    assert denoiser.refused == [1]
    assert desk.engine._latency_model.cap(("fake", (4, 4))) == 8


def test_closing_tries_no_step_again_that_lacks_the_memory_of_a_picture(
    denoiser: CountingDenoiser, poll: Callable[..., object]
) -> None:
    engine = engine_of()
    desk = Desk(engine, denoiser)
    denoiser.is_asynchronous = True
    denoiser.overlap_gate.clear()
    desk.submit(1, steps=1)
    poll(lambda: [each.step for each in engine.progress()] == [1])
    denoiser.fits = 0
    row = desk.submit(2)
    poll(lambda: denoiser.refused)
    closing = threading.Thread(target=engine.close)
    closing.start()
    with pytest.raises(CancelledError):
        row.future.result(WAIT_S)
    denoiser.overlap_gate.set()
    closing.join(WAIT_S)
    assert not engine.alive
    assert denoiser.refused == [1]


def test_too_little_memory_fails_nobody_and_halves_the_batches(desk: Desk, denoiser: CountingDenoiser) -> None:
    denoiser.fits = 2
    denoiser.gate.clear()
    rows = [desk.submit(1)]
    assert denoiser.started.wait(WAIT_S)  # alone: the next step, the first with more of them, has the four that may be
    rows += [desk.submit(seed) for seed in range(2, 9)]
    denoiser.gate.set()
    assert [shown(row) for row in rows] == list(range(1, 9))
    assert max(map(len, denoiser.batches)) == 2


def test_a_row_that_lacks_memory_alone_is_told_so_and_the_next_are_drawn(
    desk: Desk, denoiser: CountingDenoiser
) -> None:
    denoiser.fits = 0
    with pytest.raises(OutOfMemoryError):
        desk.submit(1).future.result(WAIT_S)
    denoiser.fits = 100
    assert shown(desk.submit(2)) == 2


def refuse_once(denoiser: CountingDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step finds no memory, the next ones do."""
    step = denoiser.step

    def refuses_once(samples: Sequence[Count]) -> object:
        denoiser.fits = 100 if denoiser.refused else 0
        return step(samples)

    monkeypatch.setattr(denoiser, "step", refuses_once)


def test_memory_that_was_lacking_once_costs_a_single_row_nothing(
    desk: Desk, denoiser: CountingDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_once(denoiser, monkeypatch)
    assert shown(desk.submit(1)) == 1
    assert denoiser.refused == [1]


@pytest.mark.parametrize("is_asynchronous", [False, True])
def test_a_picture_that_finds_no_memory_is_decoded_after_the_next_step(
    desk: Desk, denoiser: CountingDenoiser, is_asynchronous: bool
) -> None:
    denoiser.is_asynchronous, denoiser.undecodable = is_asynchronous, [1]
    denoiser.gate.clear()
    rows = [desk.submit(seed, steps=steps) for seed, steps in ((1, 1), (2, 3))]
    denoiser.gate.set()
    assert [shown(row) for row in rows] == [1, 2]
    assert desk.engine.progress() == []


@pytest.mark.parametrize("is_asynchronous", [False, True])
def test_a_picture_that_finds_no_memory_twice_fails_alone(
    desk: Desk, denoiser: CountingDenoiser, is_asynchronous: bool
) -> None:
    denoiser.is_asynchronous, denoiser.undecodable = is_asynchronous, [1, 1]
    denoiser.gate.clear()
    rows = [desk.submit(seed, steps=steps) for seed, steps in ((1, 1), (2, 3))]
    denoiser.gate.set()
    with pytest.raises(OutOfMemoryError):
        rows[0].future.result(WAIT_S)
    assert shown(rows[1]) == 2
    assert desk.engine.progress() == []


def test_memory_that_lacks_now_and_then_fails_nobody(
    desk: Desk, denoiser: CountingDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Before its first step, and again before its picture.
    refuse_once(denoiser, monkeypatch)
    denoiser.undecodable = [1]
    assert shown(desk.submit(1)) == 1
    assert (denoiser.refused, denoiser.undecodable) == ([1], [])


@pytest.mark.parametrize("drawn", [False, True])
def test_a_row_whose_deadline_passes_is_told_so(
    desk: Desk, denoiser: CountingDenoiser, monkeypatch: pytest.MonkeyPatch, drawn: bool
) -> None:
    now = [1000.0]
    monkeypatch.setattr(engine_module, "time", SimpleNamespace(time=lambda: now[0]))
    denoiser.gate.clear()
    row = desk.submit(1, steps=50, deadline=1001.0 if drawn else 999.0)
    assert not drawn or denoiser.started.wait(WAIT_S)
    now[0] = 1002.0
    denoiser.gate.set()
    with pytest.raises(DeadlineError):
        row.future.result(WAIT_S)
    assert len(denoiser.batches) <= 1


@pytest.mark.parametrize("is_asynchronous", [False, True])
def test_a_row_whose_first_step_is_under_way_has_begun_with_all_of_its_task_and_others_are_given_up(
    desk: Desk, denoiser: CountingDenoiser, monkeypatch: pytest.MonkeyPatch, is_asynchronous: bool
) -> None:
    now = [1000.0]
    monkeypatch.setattr(engine_module, "time", SimpleNamespace(time=lambda: now[0]))
    denoiser.is_asynchronous = is_asynchronous
    hurried = {"submitted_at": 999.0, "start_deadline": 1001.0}
    denoiser.gate.clear()
    first = desk.submit(1, width=8, **hurried)
    assert denoiser.started.wait(WAIT_S)  # its first step does not end before the gate opens
    second, other = desk.submit(2, **hurried), desk.submit(3, task_id="other", **hurried)
    polling.poll(lambda: len(desk.engine.progress()) == 3 and not desk.engine._preparing, every_s=0.01)
    now[0] = 1002.0
    denoiser.gate.set()
    with pytest.raises(NotBegunError, match="within 2 s"):
        other.future.result(WAIT_S)
    assert [shown(first), shown(second)] == [1, 2]
    assert sorted(denoiser.batches) == [[1]] * 3 + [[2]] * 3


def test_closing_cancels_all_rows_before_their_next_step(
    denoiser: CountingDenoiser, poll: Callable[..., object]
) -> None:
    engine = engine_of(images=1)
    desk = Desk(engine, denoiser)
    denoiser.gate.clear()
    rows = [desk.submit(seed) for seed in (1, 2)]
    assert denoiser.started.wait(WAIT_S)
    closing = threading.Thread(target=engine.close)
    closing.start()
    poll(lambda: engine._closing)
    denoiser.gate.set()
    closing.join(WAIT_S)
    assert not engine.alive
    for row in [*rows, desk.submit(3)]:
        with pytest.raises(CancelledError):
            row.future.result(WAIT_S)
    assert len(denoiser.batches) <= 1


def test_progress_says_how_far_each_row_is_and_who_waits_for_whom(denoiser: CountingDenoiser) -> None:
    engine = engine_of(images=1)  # which take a second a step, for all that it knows
    desk = Desk(engine, denoiser)
    assert engine.progress() == []
    denoiser.gate.clear()
    begun = desk.submit(1, steps=2, task_id="a", image_index=1)
    assert denoiser.started.wait(WAIT_S)
    desk.submit(2, steps=5, task_id="b")
    desk.submit(3, steps=4, task_id="c")
    assert {each.task_id: each for each in engine.progress()} == {
        "a": ImageProgress("a", 1, step=0, steps=2, eta_s=pytest.approx(2), queue_position=0),
        "b": ImageProgress("b", 0, step=0, steps=5, eta_s=pytest.approx(11), queue_position=2),
        "c": ImageProgress("c", 0, step=0, steps=4, eta_s=pytest.approx(6), queue_position=1),
    }
    denoiser.gate.set()
    assert shown(begun) == 1
    engine.close()
    assert engine.progress() == []


def test_no_step_waits_for_overlapped_decoding(desk: Desk, denoiser: CountingDenoiser) -> None:
    denoiser.overlap_gate.clear()
    denoiser.gate.clear()
    rows = [desk.submit(seed, steps=steps, task_id=str(seed)) for seed, steps in ((1, 2), (2, 2), (3, 5))]
    denoiser.gate.set()
    assert shown(rows[2]) == 3  # no steps are left to overlap with
    assert {each.task_id: (each.step, each.eta_s) for each in desk.engine.progress()} == {"1": (2, 0), "2": (2, 0)}
    denoiser.overlap_gate.set()
    assert [shown(row) for row in rows] == [1, 2, 3]
    assert sorted(denoiser.decoded_overlapped) == [1, 2]


def test_who_has_their_picture_is_not_among_those_that_wait(desk: Desk, denoiser: CountingDenoiser) -> None:
    denoiser.gate.clear()
    row, ahead = desk.submit(1), SimpleQueue[list[ImageProgress]]()
    row.future.add_done_callback(lambda _image: ahead.put(desk.engine.progress()))
    denoiser.gate.set()
    assert ahead.get(timeout=WAIT_S) == []


def test_an_image_whose_overlapped_decoding_fails_fails_alone(
    desk: Desk, denoiser: CountingDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = denoiser.decode

    def fails_overlapped(sample: Count, overlapped: bool = False) -> object:
        if overlapped and sample.seed == 1:
            raise ValueError("no picture")
        return decode(sample, overlapped)

    monkeypatch.setattr(denoiser, "decode", fails_overlapped)
    denoiser.gate.clear()
    rows = [desk.submit(seed, steps=steps) for seed, steps in ((1, 1), (2, 2), (3, 3))]
    denoiser.gate.set()
    with pytest.raises(ValueError, match="no picture"):
        rows[0].future.result(WAIT_S)
    assert [shown(row) for row in rows[1:]] == [2, 3]
    assert desk.engine.progress() == []


def test_closing_cancels_rows_whose_decoding_is_overlapped(denoiser: CountingDenoiser) -> None:
    denoiser.overlap_gate.clear()
    engine = engine_of()
    desk = Desk(engine, denoiser)
    denoiser.gate.clear()
    rows = [desk.submit(seed, steps=steps) for seed, steps in ((1, 1), (2, 1), (3, 2))]
    denoiser.gate.set()
    assert shown(rows[2]) == 3
    closing = threading.Thread(target=engine.close)
    closing.start()
    for row in rows[:2]:
        with pytest.raises(CancelledError):
            row.future.result(WAIT_S)
    denoiser.overlap_gate.set()
    closing.join(WAIT_S)
    assert not closing.is_alive()
    assert 2 not in denoiser.decoded_overlapped  # it had not begun
    assert engine.progress() == []


def test_what_the_engine_does_is_observed(denoiser: CountingDenoiser) -> None:
    log = Log()
    engine = engine_of(log=log)
    desk = Desk(engine, denoiser)
    assert shown(desk.submit(1, steps=2)) == 1
    engine.close()
    assert log.joins == [1]
    assert log.steps == [([1], {("fake", (4, 4)): 1}), ([1], {})]


def test_the_wait_for_a_replica_is_told_apart_from_the_drawing(desk: Desk) -> None:
    early = desk.submit(1, submitted_at=time.time() - 60).future.result(WAIT_S)
    now = desk.submit(2, submitted_at=time.time()).future.result(WAIT_S)
    assert 30 < early.startup_s <= 60
    assert now.startup_s == 0


def loses_device(*_work: object, **_how: object) -> None:
    raise LOST


@pytest.mark.parametrize("lost_in", ["start", "step", "decode"])
@pytest.mark.parametrize("is_asynchronous", [False, True])
def test_when_the_device_is_lost_all_rows_fail_as_lost_at_once_and_so_do_later_ones(
    denoiser: CountingDenoiser,
    monkeypatch: pytest.MonkeyPatch,
    lost_in: str,
    is_asynchronous: bool,
) -> None:
    engine = engine_of(images=2)
    desk = Desk(engine, denoiser)
    denoiser.is_asynchronous = is_asynchronous
    denoiser.gate.clear()
    short = desk.submit(1, steps=1)
    assert denoiser.started.wait(WAIT_S)
    monkeypatch.setattr(denoiser, lost_in, loses_device)  # first: rows of a device are prepared as they arrive
    rows = [short, *(desk.submit(seed, steps=50) for seed in (2, 3, 4, 5))]
    denoiser.gate.set()
    failed = [row.future.exception(WAIT_S) for row in [*rows, desk.submit(6)]]
    survivors = 1 if lost_in in ("start", "step") else 0  # the step that was under way, and then its picture
    assert failed[survivors:] == [LOST] * (6 - survivors)
    assert failed[:survivors] in ([None] * survivors, [LOST] * survivors)
    assert not engine.alive
    assert engine.progress() == []
    assert lost_in == "decode" or len(denoiser.batches) <= 1  # pictures are decoded beside the next steps
    engine.close()


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hang is noticed after a few looks, each of which may take long on a busy machine."""
    monkeypatch.setattr(engine_module, "LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(hang_detector, "FIRST_GRACE_S", 5.0)


def seconds_while(hangs: Callable[[], bool]) -> Callable[[], float]:
    """A clock that is a second on at each look while something hangs, and stands still before, however long that is."""
    seconds = itertools.count()
    return lambda: next(seconds) if hangs() else 0


def test_a_step_that_hangs_fails_all_rows_as_lost_though_it_does_not_end(
    denoiser: CountingDenoiser, quick_looks: None, poll: Callable[..., object]
) -> None:
    engine = engine_of(hangs=HangDetector(seconds_while(lambda: not denoiser.gate.is_set())))
    desk = Desk(engine, denoiser)
    assert shown(desk.submit(1)) == 1
    denoiser.started.clear()
    denoiser.gate.clear()
    rows = [desk.submit(seed) for seed in (2, 3)]
    assert denoiser.started.wait(WAIT_S)
    for row in rows:
        assert isinstance(row.future.exception(WAIT_S), DeviceLostError)
    assert not engine.alive
    assert isinstance(desk.submit(4).future.exception(WAIT_S), DeviceLostError)
    engine.close()  # does not wait for the step
    denoiser.gate.set()
    poll(lambda: not engine._thread.is_alive())
    assert engine.progress() == []


def test_a_launched_step_that_never_ends_is_a_hang(denoiser: CountingDenoiser, quick_looks: None) -> None:
    engine = engine_of(hangs=HangDetector(seconds_while(lambda: len(denoiser.batches) == 2)))
    denoiser.is_asynchronous = True
    denoiser.end_gate.clear()
    row = Desk(engine, denoiser).submit(1, steps=50)
    assert isinstance(row.future.exception(WAIT_S), DeviceLostError)
    assert not engine.alive
    assert len(denoiser.batches) == 2
    engine.close()  # does not wait for the step
    denoiser.end_gate.set()


def test_a_row_whose_preparation_hangs_is_lost_though_no_step_is_made(
    denoiser: CountingDenoiser, quick_looks: None
) -> None:
    engine = engine_of(hangs=HangDetector(itertools.count().__next__))  # a second for each look
    denoiser.is_asynchronous, denoiser.start_gates = True, {1: threading.Event()}
    row = Desk(engine, denoiser).submit(1)
    assert isinstance(row.future.exception(WAIT_S), DeviceLostError)
    engine.close()  # does not wait for the preparation
    assert engine.progress() == []
    denoiser.start_gates[1].set()


def test_work_for_idle_times_is_done_while_there_are_no_rows_and_between_no_two_steps(
    desk: Desk, denoiser: CountingDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "IDLE_AFTER_S", 0.01)
    steps_before, done = [], threading.Event()

    def work() -> Iterator[None]:
        for _ in range(3):
            assert threading.current_thread() is desk.engine._thread
            steps_before.append(len(denoiser.batches))
            yield
        done.set()

    denoiser.gate.clear()
    row = desk.submit(1, steps=5)
    assert denoiser.started.wait(WAIT_S)
    desk.engine.when_idle(work())
    denoiser.gate.set()
    assert shown(row) == 1
    assert done.wait(WAIT_S)
    assert steps_before == [5, 5, 5]


def test_a_row_waits_for_one_item_of_work_for_idle_times_and_not_for_all(
    desk: Desk, denoiser: CountingDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "IDLE_AFTER_S", 0.01)
    begun, may_end, drawn_after = threading.Event(), threading.Event(), []

    def work() -> Iterator[None]:
        for item in range(1000):
            drawn_after.append((item, len(denoiser.batches)))
            begun.set()
            assert may_end.wait(WAIT_S)
            yield

    desk.engine.when_idle(work())
    assert begun.wait(WAIT_S)
    row = desk.submit(1)
    may_end.set()
    assert shown(row) == 1
    assert (1, 0) not in drawn_after


def test_work_for_idle_times_that_fails_ends_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, poll: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_module, "IDLE_AFTER_S", 0.01)

    def fails() -> Iterator[None]:
        raise ValueError("a bug")
        yield

    desk.engine.when_idle(fails())
    poll(lambda: "work for idle times failed" in caplog.text)
    assert shown(desk.submit(1)) == 1
    assert desk.engine.alive


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from([4, 8]), st.sampled_from([1.0, 2.0]), st.booleans()), max_size=12
    ),
    fits=st.integers(1, 6),
    poison=st.integers(0, 12),
    undecodable=st.lists(st.integers(0, 12), unique=True),
    is_asynchronous=st.booleans(),
    unstartable=st.lists(st.integers(0, 12), unique=True),
)
def test_every_row_ends_once_whatever_is_cancelled_and_whatever_fails(
    requests: list[tuple[int, int, float, bool]],
    fits: int,
    poison: int,
    undecodable: list[int],
    is_asynchronous: bool,
    unstartable: list[int],
) -> None:
    denoiser = CountingDenoiser()
    denoiser.is_asynchronous, denoiser.unstartable = is_asynchronous, unstartable
    denoiser.fits, denoiser.poison, denoiser.undecodable = fits, poison, undecodable
    denoiser.gate.clear()
    engine = engine_of()
    desk = Desk(engine, denoiser)
    rows = []
    for seed, (steps, width, guidance, cancel) in enumerate(requests):
        rows.append(desk.submit(seed, steps, width=width, guidance_scale=guidance))
        if cancel:
            rows[-1].future.cancel()
    denoiser.gate.set()
    for seed, (row, (_steps, _width, _guidance, cancel)) in enumerate(zip(rows, requests, strict=True)):
        if cancel:
            assert row.future.cancelled()
        elif seed == poison:
            with pytest.raises(ValueError, match="cannot be drawn"):
                row.future.result(WAIT_S)
        else:
            assert shown(row) == seed
    engine.close()
    assert not engine._samples

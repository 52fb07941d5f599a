import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError

import numpy as np
import pytest

from deployments.diffusion.engine import DiffusionEngine
from deployments.errors import DeadlineError
from tests.fakes import SeedPainter, avatar_spec, face

WAIT_S = 10


@pytest.fixture
def painter() -> SeedPainter:
    return SeedPainter()


@pytest.fixture
def engine(painter: SeedPainter) -> Iterator[DiffusionEngine]:
    engine = DiffusionEngine({"fake": painter}, max_rows=4)
    yield engine
    painter.gate.set()
    engine.close()
    assert not engine.alive


def test_every_row_gets_its_own_picture(engine: DiffusionEngine) -> None:
    rows = [engine.submit(avatar_spec(seed=seed), face()) for seed in range(6)]
    for seed, row in enumerate(rows):
        assert np.all(row.future.result(WAIT_S).pixels == seed)


def test_rows_that_wait_share_a_batch(engine: DiffusionEngine, painter: SeedPainter) -> None:
    painter.gate.clear()
    first = engine.submit(avatar_spec(seed=1), face())
    assert painter.started.wait(WAIT_S)
    rest = [engine.submit(avatar_spec(seed=seed), face()) for seed in (2, 3, 4)]
    painter.gate.set()
    for row in [first, *rest]:
        row.future.result(WAIT_S)
    assert painter.batches == [[1], [2, 3, 4]]


def test_a_batch_that_nobody_waits_for_stops_before_its_next_step(
    engine: DiffusionEngine, painter: SeedPainter
) -> None:
    painter.gate.clear()
    row = engine.submit(avatar_spec(num_inference_steps=50), face())
    assert painter.started.wait(WAIT_S)
    row.future.cancel()
    painter.gate.set()
    engine.submit(avatar_spec(seed=2), face()).future.result(WAIT_S)
    assert painter.steps_done < 50


def test_a_row_fails_alone(engine: DiffusionEngine, painter: SeedPainter) -> None:
    painter.gate.clear()
    engine.submit(avatar_spec(seed=1), face())
    assert painter.started.wait(WAIT_S)
    painter.poison = 3
    rows = [engine.submit(avatar_spec(seed=seed), face()) for seed in (2, 3, 4)]
    painter.gate.set()
    assert np.all(rows[0].future.result(WAIT_S).pixels == 2)
    assert np.all(rows[2].future.result(WAIT_S).pixels == 4)
    with pytest.raises(ValueError, match="seed 3"):
        rows[1].future.result(WAIT_S)


def test_a_row_whose_deadline_passes_while_it_waits_is_told_so(engine: DiffusionEngine, painter: SeedPainter) -> None:
    painter.gate.clear()
    engine.submit(avatar_spec(seed=1), face())
    assert painter.started.wait(WAIT_S)
    late = engine.submit(avatar_spec(seed=2, deadline=time.time() - 1), face())
    painter.gate.set()
    with pytest.raises(DeadlineError):
        late.future.result(WAIT_S)
    assert [2] not in painter.batches


def test_a_row_whose_deadline_passes_while_it_is_drawn_is_told_so(
    engine: DiffusionEngine, painter: SeedPainter
) -> None:
    painter.gate.clear()
    row = engine.submit(avatar_spec(num_inference_steps=50, deadline=time.time() + 0.2), face())
    assert painter.started.wait(WAIT_S)
    while time.time() < row.spec.deadline:
        pass
    painter.gate.set()
    with pytest.raises(DeadlineError):
        row.future.result(WAIT_S)


def test_closing_cancels_what_waits_and_what_is_drawn(painter: SeedPainter) -> None:
    engine = DiffusionEngine({"fake": painter}, max_rows=1)
    painter.gate.clear()
    drawn = engine.submit(avatar_spec(seed=1), face())
    assert painter.started.wait(WAIT_S)
    waiting = engine.submit(avatar_spec(seed=2), face())
    closing = threading.Thread(target=engine.close)
    closing.start()
    with pytest.raises(CancelledError):
        waiting.future.result(WAIT_S)
    painter.gate.set()
    closing.join(WAIT_S)
    assert drawn.future.cancelled()
    assert engine.submit(avatar_spec(seed=3), face()).future.cancelled()
    assert painter.batches == [[1]]


def test_the_wait_for_a_replica_is_told_apart_from_the_drawing(engine: DiffusionEngine) -> None:
    early = engine.submit(avatar_spec(submitted_at=time.time() - 5), face()).future.result(WAIT_S)
    now = engine.submit(avatar_spec(submitted_at=time.time()), face()).future.result(WAIT_S)
    assert 4 < early.startup_s <= 5
    assert now.startup_s == 0

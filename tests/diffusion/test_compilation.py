"""Which shapes are compiled, and when."""

import gc

import pytest

from deployments.config import AvatarGeneratorConfig
from deployments.diffusion.compilation import Size, compile_at_start, compile_when_idle, compiled_batch_sizes


class Model:
    def __init__(self) -> None:
        self.compiled: list[tuple[Size, int]] = []

    def compile(self, size: Size, batch_size: int) -> None:
        self.compiled.append((size, batch_size))


@pytest.mark.parametrize(
    ("changes", "guided", "expected"),
    [
        ({}, True, [2, 4, 6, 8, 12, 16]),
        ({}, False, [1, 2, 3, 4, 6, 8, 12, 16]),  # as many rows as of eight images with guidance
        ({"max_rows": 3}, True, [2, 4, 6]),
        ({"max_rows": 1}, False, [1, 2]),
        ({"batch_invariant": True}, True, [1]),
    ],
)
def test_only_batch_sizes_that_occur_are_compiled(changes: dict[str, int], guided: bool, expected: list[int]) -> None:
    config = AvatarGeneratorConfig(**changes)  # type: ignore[arg-type]
    assert compiled_batch_sizes(config, guided=guided) == expected
    assert compiled_batch_sizes(config, guided=guided, single=True) == sorted({1, *expected})


def test_at_the_start_one_size_is_compiled_the_smallest_batches_first() -> None:
    model = Model()
    compile_at_start(model, (64, 32), [2, 4])
    assert model.compiled == [((64, 32), 2), ((64, 32), 4)]


def test_when_idle_each_item_is_one_shape() -> None:
    model = Model()
    work = compile_when_idle(model, [(64, 32), (32, 64)], [2, 4])
    assert model.compiled == []
    next(work)
    assert model.compiled == [((64, 32), 2)]
    assert sum(1 for _ in work) == 3
    assert model.compiled[1:] == [((64, 32), 4), ((32, 64), 2), ((32, 64), 4)]


def test_work_for_idle_times_does_not_keep_an_evicted_model() -> None:
    model = Model()
    compiled, work = model.compiled, compile_when_idle(model, [(64, 32)], [2, 4])
    next(work)
    del model
    gc.collect()
    assert list(work) == []
    assert compiled == [((64, 32), 2)]

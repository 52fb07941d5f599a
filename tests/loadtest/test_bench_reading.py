"""The measure of reading: its scores by their definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.bench.reading.scores import both_right, chance, macro_recall

CLASSES = st.sampled_from("abc")
TRUTHS = st.lists(CLASSES, min_size=1)


@settings(deadline=None)
@given(TRUTHS, CLASSES)
def test_a_constant_answer_scores_chance_whatever_the_frequencies(truth: list[str], always: str) -> None:
    expected = chance(truth) if always in truth else 0.0
    assert macro_recall(truth, [always] * len(truth)) == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(st.tuples(CLASSES, CLASSES), min_size=1))
def test_macro_recall_is_the_mean_of_what_each_class_gets_alone(pairs: list[tuple[str, str]]) -> None:
    alone = [[pair for pair in pairs if pair[0] == each] for each in {true for true, _ in pairs}]
    shares = [sum(true == told for true, told in some) / len(some) for some in alone]
    truth, told = zip(*pairs, strict=True)
    assert macro_recall(truth, told) == pytest.approx(np.mean(shares))


@settings(deadline=None)
@given(TRUTHS, st.data())
def test_both_right_is_at_most_either_and_counts_nobody_without_a_class(truth: list[str], data: st.DataObject) -> None:
    answered = st.lists(st.none() | CLASSES, min_size=len(truth), max_size=len(truth))
    first, second = data.draw(answered), data.draw(answered)
    both = both_right(truth, first, second)
    for one in (first, second):
        assert both <= np.mean([true == told for true, told in zip(truth, one, strict=True)])
    assert both_right([*truth, None], [*first, None], [*second, None]) == both

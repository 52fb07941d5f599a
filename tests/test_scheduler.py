from hypothesis import given
from hypothesis import strategies as st

from deployments.diffusion.scheduler import Row, RowScheduler
from tests.fakes import row


def scheduler_with(rows: list[Row], max_rows: int = 4) -> RowScheduler:
    scheduler = RowScheduler(max_rows)
    for each in rows:
        scheduler.add(each)
    return scheduler


def test_the_oldest_row_takes_along_those_of_its_group() -> None:
    first, other, second = row(group="a"), row(group="b"), row(group="a")
    scheduler = scheduler_with([first, other, second])
    assert scheduler.next_batch() == [first, second]
    assert scheduler.next_batch() == [other]
    assert scheduler.next_batch() == []


def test_a_batch_holds_at_most_max_rows_and_the_rest_waits() -> None:
    rows = [row() for _ in range(5)]
    scheduler = scheduler_with(rows, max_rows=2)
    assert [scheduler.next_batch() for _ in range(3)] == [rows[:2], rows[2:4], rows[4:]]


def test_a_row_whose_deadline_has_passed_is_taken_out() -> None:
    late, fine = row(deadline=10.0), row(deadline=20.0)
    scheduler = scheduler_with([late, fine])
    assert scheduler.drop_expired(now=10.0) == [late]
    assert scheduler.next_batch() == [fine]


def test_a_row_that_nobody_waits_for_is_forgotten() -> None:
    gone, fine = row(deadline=10.0), row()
    scheduler = scheduler_with([gone, fine])
    gone.future.cancel()
    assert scheduler.drop_expired(now=11.0) == []
    assert scheduler.next_batch() == [fine]


def test_draining_leaves_nothing() -> None:
    rows = [row(), row(group="b")]
    scheduler = scheduler_with(rows)
    assert scheduler.drain() == rows
    assert len(scheduler) == 0


@given(
    groups=st.lists(st.sampled_from("abc"), max_size=30),
    cancelled=st.sets(st.integers(0, 29)),
    expired=st.sets(st.integers(0, 29)),
    max_rows=st.integers(1, 5),
)
def test_every_row_comes_out_once_whatever_is_cancelled_or_late(
    groups: list[str], cancelled: set[int], expired: set[int], max_rows: int
) -> None:
    rows = [row(group=group, deadline=1.0 if i in expired else 9.0) for i, group in enumerate(groups)]
    scheduler = scheduler_with(rows, max_rows)
    for index in cancelled & set(range(len(rows))):
        rows[index].future.cancel()
    out = scheduler.drop_expired(now=5.0)
    while batch := scheduler.next_batch():
        assert len(batch) <= max_rows
        assert len({each.group for each in batch}) == 1
        out += batch
    assert sorted(map(id, out)) == sorted(id(each) for each in rows if not each.future.cancelled())


@given(groups=st.lists(st.sampled_from("abc"), min_size=1, max_size=30), max_rows=st.integers(1, 5))
def test_the_row_that_waited_longest_is_always_in_the_next_batch(groups: list[str], max_rows: int) -> None:
    waiting = [row(group=group) for group in groups]
    scheduler = scheduler_with(waiting, max_rows)
    while batch := scheduler.next_batch():
        assert batch[0] is waiting[0]
        waiting = [each for each in waiting if each not in batch]
    assert waiting == []

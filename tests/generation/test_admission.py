"""What one replica takes on at once, in shares by owner."""

from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import OverloadedError
from serve_app.generation.admission import FairSlots


class Charged(Counter[str]):
    """Counts refusals."""

    def charge_refusal(self, owner: str) -> None:
        self[owner] += 1


def slots(most: int, use: Charged | None = None) -> FairSlots:
    return FairSlots(most, "images are being made", retry_after_s=3, use=Charged() if use is None else use)  # type: ignore[arg-type]


def test_owners_that_fill_all_slots_keep_no_other_out() -> None:
    images, use = 8, Charged()
    fair = slots(32, use)
    with ExitStack() as held:
        for owner in ("ann", "bob", "cid", "dan"):
            held.enter_context(fair.hold(owner, images))
        assert fair.in_use == 1
        held.enter_context(fair.hold("eve", images))
        assert fair.in_use == 40 / 32
        for owner in ("ann", "bob", "cid", "dan", "eve"):
            with pytest.raises(OverloadedError, match="8 of them for you") as refused:
                held.enter_context(fair.hold(owner, images))
            assert refused.value.retry_after_s == 3
    assert use == Charged(dict.fromkeys(("ann", "bob", "cid", "dan", "eve"), 1))


def test_one_owner_alone_may_use_all_and_a_second_gets_its_half() -> None:
    fair = slots(8)
    with ExitStack() as held:
        for _ in range(8):
            held.enter_context(fair.hold("ann", 1))
        with pytest.raises(OverloadedError):
            fair.check("ann", 1)
        for _ in range(4):
            held.enter_context(fair.hold("bob", 1))
        with pytest.raises(OverloadedError):
            fair.check("bob", 1)
    with fair.hold("ann", 8):
        pass


@given(st.integers(1, 40), st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(1, 8)), max_size=100))
def test_shares_hold_for_any_requests(most: int, requests: list[tuple[str, int]]) -> None:
    fair, held = slots(most), Counter[str]()
    with ExitStack() as stack:
        for owner, count in requests:
            new, before = owner not in held, held.total()
            try:
                stack.enter_context(fair.hold(owner, count))
            except OverloadedError:
                assert not new
                assert before + count > most
                assert held[owner] + count > most / len(held)
            else:
                held[owner] += count
        assert held.total() <= 2 * most + 8 * len(held)
    for owner in "abcdefg":
        fair.check(owner, most)

"""What a process remembers of each token, by a clock that the test sets."""

import math
from types import SimpleNamespace

import pytest

from serve_app.auth.recent import Recent


def test_values_are_dropped_when_they_are_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("serve_app.auth.recent.time", clock)
    recent: Recent[str] = Recent(ttl_s=10)
    recent.set("old", "a")
    recent.set("set again", "b")
    clock.now = 105.0
    recent.set("set again", "c")
    clock.now = 109.0
    assert recent.get("old") == "a"
    clock.now = 110.0
    assert recent.get("old") is None
    assert recent.with_age("old") == ("a", 10.0)  # until a value is set
    recent.set("new", "d")
    assert recent.with_age("old") == (None, math.inf)
    assert (recent.get("set again"), recent.get("new")) == ("c", "d")

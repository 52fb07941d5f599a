"""What a process remembers of each token for a while. Bounded: values that are too old are dropped."""

import time
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """Values by name, each for `ttl_s` after it was set."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._values: dict[str, tuple[V, float]] = {}  # and when it was set (monotonic), the oldest first

    def get(self, name: str) -> V | None:
        """The value; None where there is none, or it is `ttl_s` old."""
        value, age_s = self.with_age(name)
        return value if age_s < self._ttl_s else None

    def with_age(self, name: str) -> tuple[V | None, float]:
        """The value and its age in seconds; None and infinity where there is none."""
        value, set_at = self._values.get(name, (None, -float("inf")))
        return value, time.monotonic() - set_at

    def set(self, name: str, value: V) -> None:
        """Store a value, now the newest, and drop those of any name that are older than `ttl_s`."""
        now = time.monotonic()
        self.forget(name)
        self._values[name] = value, now
        while (oldest := next(iter(self._values))) and now - self._values[oldest][1] >= self._ttl_s:
            del self._values[oldest]

    def forget(self, name: str) -> None:
        """Drop the value of a name, if it has one."""
        self._values.pop(name, None)

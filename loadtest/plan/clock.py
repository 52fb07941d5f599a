"""The clock of a simulation: a heap of what happens when."""

import heapq
from collections.abc import Callable
from typing import Any

Action = Callable[..., None]


class Clock:
    """Simulated seconds. What is due at one moment happens in the order in which it was arranged."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Action, tuple[Any, ...]]] = []
        self._arranged = 0

    def at(self, when: float, action: Action, *arguments: Any) -> None:
        """Have something happen, at once where `when` has passed."""
        self._arranged += 1
        heapq.heappush(self._due, (max(when, self.now), self._arranged, action, arguments))

    def run_while(self, goes_on: Callable[[], bool]) -> None:
        """Let things happen while any are due and `goes_on`."""
        due, pop = self._due, heapq.heappop
        while due and goes_on():
            self.now, _, action, arguments = pop(due)
            action(*arguments)

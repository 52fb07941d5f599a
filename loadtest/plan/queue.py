"""The queue of tasks as `serve_app/tasks` keeps it in Redis: owners take turns, low priority goes behind."""

from collections import deque
from typing import Generic, Protocol, TypeVar

from serve_app.tasks.stream import NORMAL_IN_A_ROW


class Queued(Protocol):
    """A task of the queue."""

    @property
    def tenant(self) -> str:
        """Its owner."""

    @property
    def is_low(self) -> bool:
        """Whether its request asked for low priority."""


T = TypeVar("T", bound=Queued)


class SimulatedQueue(Generic[T]):
    """Which task a free worker takes next.

    The normal stream has one task of each owner; its others wait in the low one meanwhile, in order of their arrival.
    """

    def __init__(self) -> None:
        self._normal: deque[T] = deque()
        self._low: deque[T] = deque()
        self._in_line: dict[str, T] = {}  # the task of each owner in the normal stream
        self._later: dict[str, deque[T]] = {}  # the owner's others, which are in the low stream, too
        self._gone: set[int] = set()  # ids of tasks that left the low stream otherwise
        self._normal_in_a_row = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, task: T) -> None:
        """Queue a task."""
        self._length += 1
        if task.is_low:
            self._low.append(task)
        elif task.tenant in self._in_line:
            self._later.setdefault(task.tenant, deque()).append(task)
            self._low.append(task)
        else:
            self._in_line[task.tenant] = task
            self._normal.append(task)

    def take(self) -> T:
        """The next task. Raises: IndexError where there is none."""
        self._skip_gone()
        task = self._next()
        self._length -= 1
        self._leave_line(task)
        return task

    def _next(self) -> T:
        """As `TaskQueue._take_new`, one at a time."""
        if self._normal_in_a_row >= NORMAL_IN_A_ROW:
            self._normal_in_a_row = 0
            if self._low:
                return self._low.popleft()
        if self._normal:
            self._normal_in_a_row += 1
            return self._normal.popleft()
        return self._low.popleft()

    def _skip_gone(self) -> None:
        while self._low and id(self._low[0]) in self._gone:
            self._gone.discard(id(self._low.popleft()))

    def _leave_line(self, task: T) -> None:
        """The owner's oldest waiting task takes the turn of one that leaves the normal stream."""
        later = self._later.get(task.tenant)
        if self._in_line.get(task.tenant) is not task:
            if later and task in later:
                later.remove(task)
            return
        del self._in_line[task.tenant]
        if later:
            following = later.popleft()
            self._gone.add(id(following))
            self._in_line[task.tenant] = following
            self._normal.append(following)

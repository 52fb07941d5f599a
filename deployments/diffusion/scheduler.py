"""Which rows the generator draws next. Knows neither torch nor ray: a decision needs no GPU to be tested."""

from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field

from deployments.types import AvatarSpec, GeneratedImage, Vector


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One image that somebody waits for. Rows of one `group` can be drawn in the same batch."""

    spec: AvatarSpec
    face: Vector
    group: Hashable
    arrived_at: float  # unix seconds
    future: "Future[GeneratedImage]" = field(default_factory=Future)

    @property
    def abandoned(self) -> bool:
        return self.future.cancelled()


class RowScheduler:
    """Waiting rows, served oldest first, each time with all that can share its batch, up to `max_rows`."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self._waiting: list[Row] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, row: Row) -> None:
        self._waiting.append(row)

    def drop_expired(self, now: float) -> list[Row]:
        """Take out and return the rows whose deadline has passed; forget those that nobody waits for any more."""
        expired = [row for row in self._waiting if row.spec.deadline <= now and not row.abandoned]
        self._waiting = [row for row in self._waiting if row.spec.deadline > now and not row.abandoned]
        return expired

    def next_batch(self) -> list[Row]:
        """Take out the oldest row and those of its group that fit beside it; empty when nothing waits."""
        if not self._waiting:
            return []
        oldest = self._waiting[0]
        batch = [row for row in self._waiting if row.group == oldest.group][: self.max_rows]
        self._waiting = [row for row in self._waiting if row not in batch]
        return batch

    def drain(self) -> list[Row]:
        """Take out everything."""
        rows, self._waiting = self._waiting, []
        return rows

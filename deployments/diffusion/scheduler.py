"""Which rows take the next denoising step. Knows neither torch nor ray: a decision needs no GPU to be tested.

For every step the rows are chosen anew, from those that wait and those that are half done alike. The shortest
remaining work goes first, because that makes the mean wait shortest; ageing lets nobody starve; tenants take turns.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from deployments.diffusion.denoiser import Denoiser
from deployments.types import AvatarSpec, GeneratedImage, Vector

Bucket = tuple[str, Hashable]
"""Model, and what its rows must have in common to share a step: the shape of their latents."""


@dataclass(slots=True, eq=False)
class Row:
    """One image that somebody waits for."""

    spec: AvatarSpec
    face: Vector
    denoiser: Denoiser
    bucket: Bucket
    arrived_at: float  # unix seconds
    steps_done: int = 0
    joined_at: float | None = None  # unix seconds; when its first step began
    memory_errors: int = 0  # when it was alone
    future: "Future[GeneratedImage]" = field(default_factory=Future)

    @property
    def steps_left(self) -> int:
        return self.spec.num_inference_steps - self.steps_done

    @property
    def width(self) -> int:
        """Rows of the denoiser's batch: with guidance it predicts twice, with the prompt and against it."""
        return 2 if self.spec.guidance_scale > 1 else 1

    @property
    def abandoned(self) -> bool:
        return self.future.cancelled()


class Costs(Protocol):
    """What is known of the time of steps."""

    def step_s(self, bucket: Bucket, width: int) -> float:
        """Seconds of a step whose rows have this width together."""
        ...

    def cap(self, bucket: Bucket) -> int:
        """The largest width that a step shall have."""
        ...


class RowScheduler:
    """Rows that are not done, and the choice among them.

    `ageing` is how many seconds of remaining work each second of waiting makes up for: 0 is shortest first without
    mercy, a large one is first come, first served.
    """

    def __init__(self, ageing: float) -> None:
        self._ageing = ageing
        self._rows: list[Row] = []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Sequence[Row]:
        return self._rows

    def add(self, row: Row) -> None:
        self._rows.append(row)

    def remove(self, rows: Iterable[Row]) -> None:
        gone = set(rows)
        self._rows = [row for row in self._rows if row not in gone]

    def drop_expired(self, now: float) -> list[Row]:
        """Take out and return the rows whose deadline has passed; forget those that nobody waits for any more."""
        expired = [row for row in self._rows if row.spec.deadline <= now and not row.abandoned]
        self._rows = [row for row in self._rows if row.spec.deadline > now and not row.abandoned]
        return expired

    def next_batch(self, now: float, costs: Costs) -> list[Row]:
        """The rows that take the next step together; empty when there are none."""
        if not self._rows:
            return []
        ranks = {row: self._rank(row, now, costs) for row in self._rows}
        first = min(self._rows, key=ranks.__getitem__)
        if first.spec.alone:
            return [first]
        fellows = [row for row in self._rows if row.bucket == first.bucket and not row.spec.alone]
        return _fitting(_in_turns(fellows, ranks), costs.cap(first.bucket))

    def _rank(self, row: Row, now: float, costs: Costs) -> tuple[float, float]:
        """Smaller goes first: seconds of work that are left, less the waiting so far; then the older one."""
        work_s = row.steps_left * costs.step_s(row.bucket, row.width)
        return work_s - self._ageing * (now - row.arrived_at), row.arrived_at

    def drain(self) -> list[Row]:
        """Take out everything."""
        rows, self._rows = self._rows, []
        return rows

    def waiting(self) -> Mapping[Bucket, int]:
        """How many rows each bucket has."""
        counts: dict[Bucket, int] = {}
        for row in self._rows:
            counts[row.bucket] = counts.get(row.bucket, 0) + 1
        return counts


def _in_turns(rows: list[Row], ranks: Mapping[Row, tuple[float, float]]) -> list[Row]:
    """Each tenant's best row, by rank, then each tenant's second best, and so on."""
    seen: dict[str, int] = {}
    order: list[tuple[int, int, Row]] = []
    for row in sorted(rows, key=ranks.__getitem__):
        turn = seen[row.spec.tenant] = seen.get(row.spec.tenant, -1) + 1
        order.append((turn, len(order), row))
    return [row for _turn, _place, row in sorted(order, key=lambda each: each[:2])]


def _fitting(rows: list[Row], cap: int) -> list[Row]:
    """As many as the cap on the denoiser's batch allows, at least one."""
    batch: list[Row] = []
    width = 0
    for row in rows:
        if batch and width + row.width > cap:
            continue
        batch.append(row)
        width += row.width
    return batch

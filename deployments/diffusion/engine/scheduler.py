"""Chooses the rows of the next denoising step. Imports neither torch nor Ray: decisions are tested without a GPU.

Whenever a row arrives or leaves, the rows of the next steps are chosen again among all waiting and half-done rows.
The shortest remaining work goes first, which minimises the mean wait; ageing prevents starvation; tenants take turns,
those with the least recent usage first. The batch size minimises the total wait, but a tenant is not slowed much by
one that used much more. Usage is the time of steps here and what tenants used before this stage: decoding, and refused
requests.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

from deployments.common.fair_share import FairShare
from deployments.diffusion.engine.denoiser import Denoiser
from deployments.types import AvatarSpec, FaceEmbedding, GeneratedImage

# Expected arrivals for each image that is here: they wait for the time that a step with few rows wastes. Simulated with
# step times of 14 + 6 B and 6 + 24 B ms for B images at loads of 0.5 to 0.9: with 1 the flat curve, on which all should
# run together, has a p95 a tenth worse; with 4 the short requests of the steep one wait as in the fullest step.
EXPECTED_ARRIVALS = 2.0
MAX_SLOWDOWN = 1.15  # of a step by rows of tenants that used much more than its first row's tenant

Bucket = tuple[str, Hashable]
"""Model, and what rows must have in common to share a step: the shape of their latents."""


@dataclass(slots=True, eq=False)
class Row:
    """One requested image."""

    spec: AvatarSpec
    face: FaceEmbedding
    denoiser: Denoiser
    bucket: Bucket
    arrived_at: float  # unix seconds
    steps_done: int = 0  # launched: the last one may still run
    joined_at: float | None = None  # unix seconds; when its first step was launched
    task_begun: bool = False  # a step of its task was launched: its start deadline is met
    memory_errors: int = 0  # in a row, while it was alone in its step
    future: "Future[GeneratedImage]" = field(default_factory=Future)
    sizes: Sequence[int] = field(init=False)  # rows of the denoiser's batch, in each of its steps
    alike: Sequence[int] = field(init=False)  # how many steps from each one on take as many as it

    def __post_init__(self) -> None:
        self.sizes = tuple(self.denoiser.batch_sizes(self.spec))
        runs = [len(list(run)) for _, run in groupby(self.sizes)]
        self.alike = tuple(left for run in runs for left in range(run, 0, -1))

    @property
    def steps_left(self) -> int:
        """Denoising steps still to make; 0 once only its decoding is left."""
        return len(self.sizes) - self.steps_done

    @property
    def batch_size(self) -> int:
        """Rows of the denoiser's batch in the next step, after the last one in that."""
        return self.sizes[min(self.steps_done, len(self.sizes) - 1)]

    def alone_s(self, costs: "StepCosts", step: int) -> float:
        """Seconds of its steps from this one on, counted from 0, where nothing shares them."""
        left = self.sizes[step:]
        return sum(left.count(size) * costs.step_s(self.bucket, size) for size in set(left))

    def shared_s(self, costs: "StepCosts") -> float:
        """Seconds of the device for all its steps, where as many rows as is useful share each."""
        cap = costs.cap(self.bucket)
        return sum(self.sizes) * costs.step_s(self.bucket, cap) / cap

    @property
    def start_deadline(self) -> float | None:
        """Unix seconds; None once it is met, or where there is none."""
        return None if self.task_begun else self.spec.start_deadline

    @property
    def expires_at(self) -> float:
        """Unix seconds."""
        start_deadline = self.start_deadline
        return self.spec.deadline if start_deadline is None else min(self.spec.deadline, start_deadline)

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller gave up: the row leaves before the next step."""
        return self.future.cancelled()


@dataclass(frozen=True, slots=True)
class RowEta:
    """Expected end and queue position of a row, if no other arrives."""

    eta_s: float  # seconds until its last step
    queue_position: int  # among rows without a step, from 1; 0 once its first step has begun


class StepCosts(Protocol):
    """Expected step times."""

    def step_s(self, bucket: Bucket, batch_size: int) -> float:
        """Seconds of a step of this batch size."""
        ...

    def cap(self, bucket: Bucket) -> int:
        """The largest useful batch size."""
        ...


class RowScheduler:
    """Holds the unfinished rows and chooses those of the next step.

    `ageing` is how many seconds of remaining work each second of waiting offsets: 0 is strict shortest-first, a large
    value is first come, first served.
    """

    def __init__(self, ageing: float) -> None:
        self._ageing = ageing
        self._rows: list[Row] = []
        self._chosen: list[Row] = []  # valid until a row arrives or leaves
        self._chosen_size = 0  # rows of the denoiser's batch; while another number is taken, others may fit
        self._fair_share = FairShare()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Sequence[Row]:
        """The unfinished rows in order of arrival; not a copy."""
        return self._rows

    def copy(self, arriving: Iterable[Row] = ()) -> "RowScheduler":
        """The same rows and, where no others are `arriving`, the same choice; later changes of either are its own."""
        other = RowScheduler(self._ageing)
        other._rows, other._fair_share = [*self._rows, *arriving], self._fair_share
        other._chosen = self._chosen if len(other) == len(self) else []
        other._chosen_size = self._chosen_size
        return other

    def charge(self, rows: Sequence[Row], seconds: float, now: float, sizes: Sequence[int] = ()) -> None:
        """Account a step of `seconds` to the tenants of its rows.

        `sizes` are the rows of the denoiser's batch that each took, where not as many as in its next step.
        """
        taken = sizes or [row.batch_size for row in rows]
        shares = [seconds * size / sum(taken) for size in taken]
        tenants = [row.spec.tenant for row in rows]
        self._fair_share.charge(zip(tenants, shares, strict=True), now)

    def add(self, row: Row) -> None:
        """Add a row, and choose the next batch anew; `spec.tenant_used_s` replaces what its tenant used elsewhere."""
        if row.spec.start_deadline is not None:
            row.task_begun = any(other.task_begun and other.spec.task_id == row.spec.task_id for other in self._rows)
        self._rows.append(row)
        self._chosen = []
        self._fair_share.note_elsewhere(row.spec.tenant, row.spec.tenant_used_s, row.arrived_at)

    def remove(self, rows: Iterable[Row]) -> None:
        """Remove rows, and choose the next batch anew; rows that are not held are ignored."""
        if removed := set(rows):
            self._keep([row for row in self._rows if row not in removed])

    def begin(self, rows: Sequence[Row], now: float) -> None:
        """Note that a step of these rows is about to be launched. It is the first one of those that are new."""
        new = [row for row in rows if row.joined_at is None]
        for row in new:
            row.joined_at = now
        begun = {row.spec.task_id for row in new}
        for row in self._rows if begun else ():
            row.task_begun = row.task_begun or row.spec.task_id in begun

    def drop_expired(self, now: float) -> list[Row]:
        """Remove expired and cancelled rows; returns the expired ones."""
        expired = [row for row in self._rows if row.expires_at <= now and not row.is_cancelled]
        self._keep([row for row in self._rows if row.expires_at > now and not row.is_cancelled])
        return expired

    def drain(self) -> list[Row]:
        """Remove and return all rows."""
        rows = self._rows
        self._keep([])
        return rows

    def _keep(self, rows: list[Row]) -> None:
        if len(rows) < len(self._rows):
            self._rows, self._chosen = rows, []

    def next_batch(self, now: float, costs: StepCosts) -> Sequence[Row]:
        """The rows that take the next step together; empty when there are none.

        The choice holds until a row arrives or leaves, or the chosen ones take another number of rows: all rows age
        alike, and only the remaining work of the chosen ones shrinks, so no other row can overtake them.
        """
        if not self._rows:
            return []
        size = batch_size_of(self._chosen)
        if not self._chosen or size != self._chosen_size or size > costs.cap(self._chosen[0].bucket):
            self._chosen = self._limit_slowdown(_least_total_wait(self._in_order(now, costs), costs), now, costs)
            self._chosen_size = batch_size_of(self._chosen)
        return self._chosen

    def _limit_slowdown(self, batch: list[Row], now: float, costs: StepCosts) -> list[Row]:
        """Drop rows that must yield to the first one wherever they would slow the step by more than MAX_SLOWDOWN."""
        first = batch[0]
        yielding = [row for row in batch if self._fair_share.used_much_more(row.spec.tenant, first.spec.tenant, now)]
        kept = [row for row in batch if row not in yielding]
        max_step_s = MAX_SLOWDOWN * costs.step_s(first.bucket, batch_size_of(kept))
        for row in yielding:
            if costs.step_s(first.bucket, batch_size_of([*kept, row])) <= max_step_s:
                kept.append(row)
        return kept

    def forecast(self, now: float, costs: StepCosts) -> dict[Row, RowEta]:
        """Expected end and queue position of every row, in the order in which they are served, if no other arrives."""
        order = self._in_order(now, costs)
        ends = finish_times_s(order, self.next_batch(now, costs), costs)
        queue = [row for row in order if row.joined_at is None]
        positions = {row: position for position, row in enumerate(queue, 1)}
        return {row: RowEta(ends[row], positions.get(row, 0)) for row in order}

    def _in_order(self, now: float, costs: StepCosts) -> list[Row]:
        """Each tenant's best row, then each one's second best, and so on; within a round by recent usage, then rank."""
        ranks = {row: self._rank(row, now, costs) for row in self._rows}
        seen: dict[str, int] = {}
        levels = {tenant: self._fair_share.level(tenant, now) for tenant in {row.spec.tenant for row in self._rows}}
        turns: list[tuple[int, int, int, Row]] = []
        for place, row in enumerate(sorted(self._rows, key=ranks.__getitem__)):
            turn = seen[row.spec.tenant] = seen.get(row.spec.tenant, -1) + 1
            turns.append((turn, levels[row.spec.tenant], place, row))
        return [row for *_order, row in sorted(turns, key=lambda each: each[:3])]

    def _rank(self, row: Row, now: float, costs: StepCosts) -> tuple[float, float]:
        """Smaller goes first: remaining seconds of work less the aged waiting time; then the older row."""
        work_s = row.alone_s(costs, row.steps_done)
        return work_s - self._ageing * (now - row.arrived_at), row.arrived_at

    def waiting(self) -> Mapping[Bucket, int]:
        """How many rows each bucket has."""
        counts: dict[Bucket, int] = {}
        for row in self._rows:
            counts[row.bucket] = counts.get(row.bucket, 0) + 1
        return counts


def batch_size_of(rows: Iterable[Row]) -> int:
    """Rows of the denoiser's batch for the next steps of these images: two for each image with guidance."""
    return sum(row.batch_size for row in rows)


def finish_times_s(order: Sequence[Row], first: Sequence[Row], costs: StepCosts) -> dict[Row, float]:
    """Seconds from now until each row's last step, the earliest first.

    The rows of `first` step together until one of them is done, or takes another number of rows of the denoiser's
    batch; from then on as many as fit, in the given order.
    """
    steps_done = {row: row.steps_done for row in order}
    ends: dict[Row, float] = {}
    now_s, together = 0.0, first
    while steps_done:
        steps = min(row.alike[steps_done[row]] for row in together)
        batch_size = sum(row.sizes[steps_done[row]] for row in together)
        now_s += steps * costs.step_s(together[0].bucket, batch_size)
        for row in together:
            steps_done[row] += steps
            if steps_done[row] == len(row.sizes):
                del steps_done[row]
                ends[row] = now_s
        together = _fitting(steps_done, costs)
    return ends


def _least_total_wait(order: Sequence[Row], costs: StepCosts) -> list[Row]:
    """The batch, of as many rows as fit, shortened from its end while that lowers the total wait."""
    batch = _fitting({row: row.steps_done for row in order}, costs)
    near = list(dict.fromkeys([*batch, *order[: 2 * len(batch)]]))  # rows further back count as late as the last of it
    wait_s = _total_wait_s(batch, near, len(order), costs)
    while len(batch) > 1 and (shorter_s := _total_wait_s(batch[:-1], near, len(order), costs)) < wait_s:
        batch, wait_s = batch[:-1], shorter_s
    return batch


def _total_wait_s(batch: Sequence[Row], near: Sequence[Row], rows: int, costs: StepCosts) -> float:
    """Seconds that all `rows` and the expected arrivals wait together when `batch` takes the next steps."""
    ends = finish_times_s(near, batch, costs).values()
    bucket, batch_size = batch[0].bucket, batch_size_of(batch)
    cap = max(batch_size, costs.cap(bucket))
    wasted_s = costs.step_s(bucket, batch_size) - costs.step_s(bucket, cap) * batch_size / cap
    steps = min(row.alike[row.steps_done] for row in batch)
    return sum(ends) + (rows - len(near)) * max(ends) + EXPECTED_ARRIVALS * rows * steps * wasted_s


def _fitting(steps_done: Mapping[Row, int], costs: StepCosts) -> list[Row]:
    """The first row, and as many of its bucket as the cap on the batch size allows for their steps after these."""
    batch: list[Row] = []
    batch_size = cap = 0
    for row, step in steps_done.items():
        size = row.sizes[step]
        if not batch:
            cap = 0 if row.spec.alone else costs.cap(row.bucket)
        elif row.bucket != batch[0].bucket or row.spec.alone or batch_size + size > cap:
            continue
        batch.append(row)
        batch_size += size
        if batch_size >= cap:
            break
    return batch

"""Which rows take the next denoising step. Knows neither torch nor ray: a decision needs no GPU to be tested.

When a row comes or goes, the rows of the next steps are chosen anew, from those that wait and those that are half done
alike. The shortest remaining work goes first, because that makes the mean wait shortest; ageing lets nobody starve;
tenants take turns, whoever had least of late first, and whoever asks for more than they may last. How many share a step
is what makes all of them together wait least, but nobody is slowed much by who had much more.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from deployments.diffusion.engine.denoiser import Denoiser
from deployments.diffusion.engine.fair_share import Shares
from deployments.types import AvatarSpec, GeneratedImage, Vector

# Images that are still to come for each that is here: they wait for the time that a step with few rows wastes.
# Simulated with step times of 14 + 6 B and 6 + 24 B ms for B images at loads of 0.5 to 0.9: with 1 the flat curve, on
# which all should run together, loses a tenth of its p95; with 4 the short requests of the steep one wait as they would
# in the fullest step.
LATECOMERS = 2.0
SLOWED = 1.15  # so much longer a step may take for those who had much more than its first row's tenant
MAX_DEPRIORITISED_WAIT_S = 10.0  # for which a row stands back; then it takes its turn like the others

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
    memory_errors: int = 0  # when it was alone, since its last step
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

    def deprioritised(self, now: float) -> bool:
        return self.spec.deprioritised and now - self.arrived_at < MAX_DEPRIORITISED_WAIT_S


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is ahead of a row if no other comes."""

    eta_s: float  # seconds until its steps are made
    queue_position: int  # among those that have not begun, from 1; 0 for one that has


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
        self._chosen: list[Row] = []  # for as long as no row comes or goes
        self._shares = Shares()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Sequence[Row]:
        return self._rows

    def copy(self) -> "RowScheduler":
        """The same rows and the same choice; what comes and goes here does not there."""
        other = RowScheduler(self._ageing)
        other._rows, other._chosen, other._shares = self._rows.copy(), self._chosen, self._shares
        return other

    def charge(self, rows: Sequence[Row], seconds: float, now: float) -> None:
        """These rows made a step together that took so long."""
        width = width_of(rows)
        self._shares.charge(((row.spec.tenant, seconds * row.width / width) for row in rows), now)

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self._chosen = []

    def remove(self, rows: Iterable[Row]) -> None:
        if gone := set(rows):
            self._keep([row for row in self._rows if row not in gone])

    def drop_expired(self, now: float) -> list[Row]:
        """Take out and return the rows whose deadline has passed; forget those that nobody waits for any more."""
        expired = [row for row in self._rows if row.spec.deadline <= now and not row.abandoned]
        self._keep([row for row in self._rows if row.spec.deadline > now and not row.abandoned])
        return expired

    def drain(self) -> list[Row]:
        """Take out everything."""
        rows = self._rows
        self._keep([])
        return rows

    def _keep(self, rows: list[Row]) -> None:
        if len(rows) < len(self._rows):
            self._rows, self._chosen = rows, []

    def next_batch(self, now: float, costs: Costs) -> Sequence[Row]:
        """The rows that take the next step together; empty when there are none.

        They stay the same until a row comes or goes, because none overtakes them: all age alike, and only what is left
        of theirs becomes less.
        """
        if not self._rows:
            return []
        if not self._chosen or width_of(self._chosen) > costs.cap(self._chosen[0].bucket):
            self._chosen = self._unhurt(_quickest(self._in_order(now, costs), costs), now, costs)
        return self._chosen

    def _unhurt(self, batch: list[Row], now: float, costs: Costs) -> list[Row]:
        """A batch without those who stand back, or had much more than its first row's tenant, and would slow it."""
        first = batch[0]
        greedy = [row for row in batch if self._goes_behind(row, first, now)]
        kept = [row for row in batch if row not in greedy]
        most_s = SLOWED * costs.step_s(first.bucket, width_of(kept))
        for row in greedy:
            if costs.step_s(first.bucket, width_of([*kept, row])) <= most_s:
                kept.append(row)
        return kept

    def _goes_behind(self, row: Row, first: Row, now: float) -> bool:
        if row.deprioritised(now) != first.deprioritised(now):
            return row.deprioritised(now)
        return self._shares.greedier(row.spec.tenant, first.spec.tenant, now)

    def forecast(self, now: float, costs: Costs) -> dict[Row, Outlook]:
        order = self._in_order(now, costs)
        ends = ends_s(order, self.next_batch(now, costs), costs)
        queue = [row for row in order if row.joined_at is None]
        positions = {row: position for position, row in enumerate(queue, 1)}
        return {row: Outlook(ends[row], positions.get(row, 0)) for row in order}

    def _in_order(self, now: float, costs: Costs) -> list[Row]:
        """Each tenant's best row, then each tenant's second best, and so on; those of who had least first, by rank.

        Who stands back comes after all others.
        """
        ranks = {row: self._rank(row, now, costs) for row in self._rows}
        seen: dict[str, int] = {}
        levels = {tenant: self._shares.level(tenant, now) for tenant in {row.spec.tenant for row in self._rows}}
        turns: list[tuple[bool, int, int, int, Row]] = []
        for place, row in enumerate(sorted(self._rows, key=ranks.__getitem__)):
            turn = seen[row.spec.tenant] = seen.get(row.spec.tenant, -1) + 1
            turns.append((row.deprioritised(now), turn, levels[row.spec.tenant], place, row))
        return [row for *_order, row in sorted(turns, key=lambda each: each[:4])]

    def _rank(self, row: Row, now: float, costs: Costs) -> tuple[float, float]:
        """Smaller goes first: seconds of work that are left, less the waiting so far; then the older one."""
        work_s = row.steps_left * costs.step_s(row.bucket, row.width)
        return work_s - self._ageing * (now - row.arrived_at), row.arrived_at

    def waiting(self) -> Mapping[Bucket, int]:
        """How many rows each bucket has."""
        counts: dict[Bucket, int] = {}
        for row in self._rows:
            counts[row.bucket] = counts.get(row.bucket, 0) + 1
        return counts


def width_of(rows: Iterable[Row]) -> int:
    return sum(row.width for row in rows)


def ends_s(order: Sequence[Row], first: Sequence[Row], costs: Costs) -> dict[Row, float]:
    """Seconds from now until each of these rows has made its steps, the next one first.

    `first` take their steps together until one of them is done; from then on all that fit, in this order.
    """
    left = {row: row.steps_left for row in order}
    ends: dict[Row, float] = {}
    now_s, together = 0.0, first
    while left:
        steps = min(left[row] for row in together)
        now_s += steps * costs.step_s(together[0].bucket, width_of(together))
        for row in together:
            left[row] -= steps
            if not left[row]:
                del left[row]
                ends[row] = now_s
        together = _fitting(left, costs)
    return ends


def _quickest(order: Sequence[Row], costs: Costs) -> list[Row]:
    """As many of those that fit as make all of them wait least: fewer only while that helps."""
    batch = _fitting(order, costs)
    near = list(dict.fromkeys([*batch, *order[: 2 * len(batch)]]))  # who comes later is as late as the last of these
    wait_s = _wait_s(batch, near, len(order), costs)
    while len(batch) > 1 and (less_s := _wait_s(batch[:-1], near, len(order), costs)) < wait_s:
        batch, wait_s = batch[:-1], less_s
    return batch


def _wait_s(batch: Sequence[Row], near: Sequence[Row], rows: int, costs: Costs) -> float:
    """Seconds that all `rows` wait together, those to come included, when these take the next steps."""
    ends = ends_s(near, batch, costs).values()
    bucket, width = batch[0].bucket, width_of(batch)
    cap = max(width, costs.cap(bucket))
    wasted_s = costs.step_s(bucket, width) - costs.step_s(bucket, cap) * width / cap
    steps = min(row.steps_left for row in batch)
    return sum(ends) + (rows - len(near)) * max(ends) + LATECOMERS * rows * steps * wasted_s


def _fitting(order: Iterable[Row], costs: Costs) -> list[Row]:
    """The first row, and as many of its bucket as the cap on the denoiser's batch allows."""
    batch: list[Row] = []
    width = room = 0
    for row in order:
        if not batch:
            room = 0 if row.spec.alone else costs.cap(row.bucket)
        elif row.bucket != batch[0].bucket or row.spec.alone or width + row.width > room:
            continue
        batch.append(row)
        width += row.width
        if width >= room:
            break
    return batch

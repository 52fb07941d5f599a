"""DiffusionEngine in simulated time: the real scheduler, without its threads and its device.

Between two events the scheduler's choice holds, so steps that are alike are not made one by one.
"""

import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from deployments.common.fair_share import HALF_LIFE_S
from deployments.diffusion.engine.latency_model import LatencyModel
from deployments.diffusion.engine.scheduler import Bucket, Row, RowScheduler, batch_size_of
from deployments.types import AvatarSpec, FaceEmbedding, Pixels

NEVER = math.inf


class KnownCosts:
    """A latency model that learns no more, with every answer kept."""

    def __init__(self, model: LatencyModel) -> None:
        self._model = model
        self._steps_s: dict[tuple[Bucket, int], float] = {}
        self._caps: dict[Bucket, int] = {}

    def step_s(self, bucket: Bucket, batch_size: int) -> float:
        """As `LatencyModel.step_s`."""
        known = self._steps_s.get((bucket, batch_size))
        if known is None:
            known = self._steps_s[bucket, batch_size] = self._model.step_s(bucket, batch_size)
        return known

    def cap(self, bucket: Bucket) -> int:
        """As `LatencyModel.cap`."""
        known = self._caps.get(bucket)
        if known is None:
            known = self._caps[bucket] = self._model.cap(bucket)
        return known


class NoDenoiser:
    """What a row asks its denoiser before any step; nothing is drawn."""

    is_asynchronous = True

    def bucket(self, spec: AvatarSpec, face: FaceEmbedding) -> Hashable:
        """Images of one size share steps."""
        return spec.width, spec.height

    def batch_sizes(self, spec: AvatarSpec) -> Sequence[int]:
        """Two rows in each step with guidance, one without."""
        return [2 if spec.guidance_scale > 1 else 1] * spec.num_inference_steps

    def prepare(self, specs: Sequence[AvatarSpec]) -> None:
        """Takes no time."""

    def start(self, spec: AvatarSpec, face: FaceEmbedding) -> Any:
        """Raises: NotImplementedError. Nothing is drawn."""
        raise NotImplementedError

    def step(self, samples: Sequence[Any]) -> Any:
        """Raises: NotImplementedError. Nothing is drawn."""
        raise NotImplementedError

    def decode(self, sample: Any, overlapped: bool = False) -> Pixels:
        """Raises: NotImplementedError. Nothing is drawn."""
        raise NotImplementedError


@dataclass(slots=True)
class Run:
    """Steps of the same rows, the first of which is launched. The device begins it at `begins_at`."""

    rows: list[Row]
    step_s: float
    begins_at: float
    steps: int


class Drawn(NamedTuple):
    """An image, and when it is decoded."""

    row: Row
    at: float


class SimulatedEngine:
    """The loop of `DiffusionEngine`, driven by its owner.

    `wake_at` is when the loop next chooses rows. Its owner calls `wake` then, and `add` when a row arrives; times never
    go back. With `launched_ahead` a step is chosen when the one before it begins, as on a GPU, else when it has ended.
    The decoding of a row takes `decode_s` of the device, after its last step.
    """

    def __init__(
        self, costs: KnownCosts, ageing: float, decode_s: Callable[[Row], float], *, launched_ahead: bool = True
    ) -> None:
        self._scheduler = RowScheduler(ageing)
        self._costs = costs
        self._decode_s = decode_s
        self._launched_ahead = launched_ahead
        self._run: Run | None = None
        self._free_at = -NEVER  # when the device has ended all launched steps before `_run`, and their decodings
        self._next_choice_at = -NEVER
        self._uncharged: deque[tuple[Sequence[Row], float, float]] = deque()  # rows, seconds, end of the step
        self._first_deadline = NEVER  # of any row: none is earlier
        self._drawn: list[Drawn] = []
        self.wake_at = NEVER
        self.busy_s = 0.0

    def __len__(self) -> int:
        return len(self._scheduler)

    def add(self, row: Row, now: float) -> None:
        """A row arrives, and takes part in the next choice."""
        self._settle(now)
        self._scheduler.add(row)
        self._first_deadline = min(self._first_deadline, row.spec.deadline)
        self.wake_at = max(now, self._next_choice_at)

    def wake(self, now: float) -> list[Row]:
        """Choose the rows of the next steps; returns the rows whose deadline has passed."""
        self._settle(now)
        expired: list[Row] = []
        if self._first_deadline <= now:
            expired = self._scheduler.drop_expired(now)
            self._first_deadline = min((row.spec.deadline for row in self._scheduler.rows), default=NEVER)
        while self._uncharged and self._uncharged[0][2] <= now:
            self._scheduler.charge(*self._uncharged.popleft())
        rows = self._scheduler.next_batch(now, self._costs)
        if rows:
            self._launch(list(rows), now)
        else:  # the loop waits for the launched steps, then for a row
            self._next_choice_at = max(now, self._free_at)
            self.wake_at = NEVER
        return expired

    def drawn(self) -> list[Drawn]:
        """The images whose last step was launched since the last call, in order of their ends."""
        drawn, self._drawn = self._drawn, []
        return drawn

    def _launch(self, rows: list[Row], now: float) -> None:
        """All steps until a row is done, or a deadline passes."""
        step_s = self._costs.step_s(rows[0].bucket, batch_size_of(rows))
        run = Run(rows, step_s, max(now, self._free_at), min(row.steps_left for row in rows))
        run.steps = self._launched(run, self._first_deadline)
        for row in rows:
            if row.joined_at is None:
                row.joined_at = now
        self._run = run
        self.wake_at = self._choice_at(run, run.steps)

    def _choice_at(self, run: Run, steps: int) -> float:
        """When the loop chooses again after so many steps of a run, at least one."""
        return run.begins_at + (steps - self._launched_ahead) * run.step_s

    def _launched(self, run: Run, before: float) -> int:
        """How many steps of a run are launched before a moment after its first choice."""
        waited_steps = (before - run.begins_at) / run.step_s
        if waited_steps >= run.steps:
            return run.steps
        return min(run.steps, max(1, math.ceil(waited_steps) + self._launched_ahead))

    def _settle(self, now: float) -> None:
        """Account the steps that were launched before `now`; the rest of the run is open again."""
        run = self._run
        if run is None:
            return
        self._run = None
        steps = self._launched(run, now)
        for row in run.rows:
            row.steps_done += steps
        ended_at = run.begins_at + steps * run.step_s
        self._next_choice_at = self._choice_at(run, steps)
        if steps > 1:  # by themselves: the last one may run still when the next rows are chosen
            self._uncharged.append((run.rows, _charge_s(run.step_s, steps - 1), ended_at - run.step_s))
        self._uncharged.append((run.rows, run.step_s, ended_at))
        self._free_at = ended_at
        self.busy_s += steps * run.step_s
        done = [row for row in run.rows if not row.steps_left]
        if done:
            self._scheduler.remove(done)
            for row in done:
                decode_s = self._decode_s(row)
                self._free_at += decode_s
                self.busy_s += decode_s
                self._drawn.append(Drawn(row, self._free_at))
            if not self._launched_ahead:
                self._next_choice_at = self._free_at


def _charge_s(step_s: float, steps: int) -> float:
    """What `steps` charges of a step each, one after the other, have left of themselves at the last one."""
    if steps == 1:
        return step_s
    kept = 0.5 ** (step_s / HALF_LIFE_S)
    return float(step_s * (1 - kept**steps) / (1 - kept))

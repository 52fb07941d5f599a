"""A load against the service in simulated time, from the arrival of each request to its answer."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

from deployments.common.fair_share import FairShare
from deployments.types import AvatarSpec
from loadtest.plan.clock import Clock
from loadtest.plan.generators import Generators, Outcomes
from loadtest.plan.loads import Load, Request
from loadtest.plan.queue import SimulatedQueue
from loadtest.plan.replica import Image
from loadtest.plan.scaled_service import LONGEST_WORK_S, ScaledService
from loadtest.plan.scenario import Scenario
from serve_app.auth.owner_use import MAX_REFUSED_S, REFUSED_S
from serve_app.errors import OverloadedError
from serve_app.generation.admission import FairSlots


@dataclass(slots=True, eq=False)
class Job:
    """A request under way."""

    request: Request
    deadline: float
    left: int  # images that are neither drawn nor late
    slot: AbstractContextManager[None] | None = None
    is_late: bool = False

    @property
    def tenant(self) -> str:
        """For the queue."""
        return self.request.tenant

    @property
    def is_low(self) -> bool:
        """For the queue."""
        return self.request.low


class TenantUse:
    """What refused requests count as use of their tenants, as `OwnerUse` has it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._shared = FairShare()

    def used_s(self, tenant: str) -> float:
        """Seconds that a tenant used recently."""
        return self._shared.used_s(tenant, self._clock.now)

    def charge_refusal(self, owner: str) -> None:
        """Count one."""
        seconds = min(REFUSED_S, MAX_REFUSED_S - self.used_s(owner))
        if seconds > 0:
            self._shared.charge([(owner, seconds)], self._clock.now)


class Simulation(ScaledService[Generators, FairSlots]):
    """One run, image by image."""

    def __init__(self, load: Load, scenario: Scenario) -> None:
        """Raises: ValueError where the load asks for an app that the service does not have."""
        clock = Clock()
        self._use = TenantUse(clock)
        super().__init__(load, scenario, clock, self._slots)
        sizes = {(self._models[each.app], (each.width, each.height)) for each in load.columns.kinds}
        costs = scenario.curves.costs(sorted(sizes), 2 * self._settings.generator.max_rows)
        self.generators = Generators(clock, scenario, costs, Outcomes(self._drawn, self._late))
        self._queue: SimulatedQueue[Job] = SimulatedQueue()
        self._queued_images = 0
        self._turn = 0  # of the ingress
        self._numbers = 0  # of images

    @property
    def queued_images(self) -> int:
        """Images of tasks that no worker has taken."""
        return self._queued_images

    def _begin(self) -> None:
        if self._load.requests:
            self.clock.at(self._load.requests[0].at_s, self._arrive, 0)

    def _slots(self) -> FairSlots:
        admission = self._settings.admission
        return FairSlots(admission.max_images, "images are being made", admission.retry_after_s, self._use)

    def _arrive(self, index: int) -> None:
        requests = self._load.requests
        if index + 1 < len(requests):
            self.clock.at(requests[index + 1].at_s, self._arrive, index + 1)
        request, ledger = requests[index], self.ledger
        ledger.requests += 1
        ledger.images += request.batch
        is_cold = not self.generators.fleet.running
        ledger.met_cold_start += is_cold
        settings = self._settings
        default_s = settings.queue.deadline_s if request.queued else settings.deadline_s
        job = Job(request, self.clock.now + (request.deadline_s or default_s), request.batch)
        self._ends_by = max(self._ends_by, job.deadline + LONGEST_WORK_S)
        if request.queued:
            self._enqueue(job)
        else:
            self._admit(job, is_cold)

    def _admit(self, job: Job, is_cold: bool) -> None:
        """A request whose client waits."""
        request = job.request
        self._turn += 1
        slots = self._ingresses.running[self._turn % len(self._ingresses.running)]
        slot = slots.hold(request.tenant, request.batch)
        try:
            slot.__enter__()
        except OverloadedError:
            self._refuse(job, "no slot")
            return
        if is_cold:
            slot.__exit__(None, None, None)
            self._refuse(job, "no generator runs")
            self.generators.wake_up()
            return
        job.slot = slot
        self._open += 1
        self._ingresses.load.add(1, self.clock.now)
        self._slot_images.add(request.batch, self.clock.now)
        self.clock.at(self.clock.now + self._starts.before_s, self._draw, job)

    def _enqueue(self, job: Job) -> None:
        if len(self._queue) + self._tasks_running >= self._settings.queue.max_tasks:
            self._refuse(job, "queue full")
            return
        self._open += 1
        self._queue.add(job)
        self._queued_images += job.left
        self._workers.load.add(1, self.clock.now)
        self._take_tasks()

    def _refuse(self, job: Job, reason: str) -> None:
        self.ledger.refuse(reason, job.left)
        self._window().failed += 1

    def _take_tasks(self) -> None:
        """The workers take what they have room for."""
        room = len(self._workers.running) * self._settings.worker.concurrency
        while len(self._queue) and self._tasks_running < room:
            job = self._queue.take()
            self._tasks_running += 1
            self._queued_images -= job.left
            self.clock.at(self.clock.now + self._starts.before_s, self._draw, job)

    def _draw(self, job: Job) -> None:
        """Its photo has been looked at: the generators are asked for its images."""
        request = job.request
        spec = AvatarSpec(
            model=self._models[request.app], seed=0, prompt="", negative_prompt="", width=request.width,
            height=request.height, num_inference_steps=request.steps, guidance_scale=2.0 if request.guided else 1.0,
            task_id="", image_index=0, submitted_at=request.at_s, deadline=job.deadline, tenant=request.tenant,
            tenant_used_s=self._use.used_s(request.tenant),
        )  # fmt: skip
        for _ in range(request.batch):
            self._numbers += 1
            self.generators.call(Image(self._numbers, spec, job))

    def _drawn(self, image: Image) -> None:
        self.ledger.drawn += 1
        self._settle(image)

    def _late(self, image: Image) -> None:
        self.ledger.late += 1
        image.job.is_late = True
        self._settle(image)

    def _settle(self, image: Image) -> None:
        if image.is_over:
            raise AssertionError(f"image {image.number} ended twice")
        image.is_over = True
        job = image.job
        job.left -= 1
        if not job.left:
            self.clock.at(self.clock.now + (0.0 if job.is_late else self._starts.after_s), self._end, job)

    def _end(self, job: Job) -> None:
        self._open -= 1
        now, request = self.clock.now, job.request
        if job.slot is not None:
            job.slot.__exit__(None, None, None)
            self._ingresses.load.add(-1, now)
            self._slot_images.add(-request.batch, now)
        else:
            self._tasks_running -= 1
            self._workers.load.add(-1, now)
            self._take_tasks()
        if job.is_late:
            self._window().failed += 1
            return
        latency_s = now - request.at_s
        (self.ledger.queued_s if request.queued else self.ledger.synchronous_s).append(latency_s)
        self._window().latencies_s.append(latency_s)

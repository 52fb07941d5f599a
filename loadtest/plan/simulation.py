"""A load against the service in simulated time, from the arrival of each request to its answer."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from deployments.common.fair_share import FairShare
from deployments.types import AvatarSpec
from loadtest.plan.autoscaling import Autoscaler
from loadtest.plan.clock import Clock
from loadtest.plan.cpu_replicas import CpuReplicas
from loadtest.plan.generators import Generators, Outcomes
from loadtest.plan.ledger import WINDOW_S, Ledger, Window
from loadtest.plan.loads import Load, Request
from loadtest.plan.queue import SimulatedQueue
from loadtest.plan.replica import Image
from loadtest.plan.scenario import Scenario
from serve_app.auth.owner_use import MAX_REFUSED_S, REFUSED_S
from serve_app.errors import OverloadedError
from serve_app.generation.admission import FairSlots
from serve_app.policies import TASKS

LONGEST_WORK_S = 3600.0  # between two looks at deadlines: a load of a model, the steps of a batch


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


class Simulation:
    """One run."""

    def __init__(self, load: Load, scenario: Scenario) -> None:
        """Raises: ValueError where the load asks for an app that the service does not have."""
        service, starts = scenario.service, scenario.starts
        check_apps(load, service.models)
        self._load, self._scenario, self._starts = load, scenario, starts
        self._settings, self._models = service.settings, service.models
        self.clock = clock = Clock()
        self.ledger = Ledger()
        self.windows = [Window() for _ in range(math.ceil(load.seconds / WINDOW_S))]
        sizes = {(service.models[each.app], (each.width, each.height)) for each in load.columns.kinds}
        costs = scenario.curves.costs(sorted(sizes), 2 * self._settings.generator.max_rows)
        outcomes = Outcomes(self._drawn, self._late)
        self.generators = Generators(clock, scenario, costs, outcomes)
        self._use = TenantUse(clock)
        scaling = {name: Autoscaler(name, service.scaling[name]) for name in ("AvatarIngress", "AvatarWorker")}
        self._ingresses = CpuReplicas(clock, starts.cpu_replica_s, scaling["AvatarIngress"], self._slots)
        self._workers = CpuReplicas(clock, starts.cpu_replica_s, scaling["AvatarWorker"], object)
        self._queue: SimulatedQueue[Job] = SimulatedQueue()
        self._queued_images = 0
        self._tasks_running = 0
        self._open = 0  # jobs under way
        self._ends_by = 0.0  # when every job so far has ended
        self._turn = 0  # of the ingress
        self._numbers = 0  # of images

    def run(self) -> "Simulation":
        """From the first request to the last answer; returns itself.

        Raises: AssertionError where requests are open long after their deadlines: images would be lost.
        """
        clock = self.clock
        for scale in (self._scale_ingresses, self._scale_workers, self._scale_generators):
            clock.at(0.0, scale)
        if self._load.requests:
            clock.at(self._load.requests[0].at_s, self._arrive, 0)
        clock.run_while(lambda: clock.now < self._load.seconds or (self._open > 0 and clock.now < self._ends_by))
        if self._open:
            raise AssertionError(f"{self._open} requests have neither images nor an error")
        return self

    @property
    def gpu_hours(self) -> float:
        """GPUs of nodes that are paid, hours."""
        return self._scenario.price.gpus * self.generators.fleet.paid_node_s(self._load.seconds) / 3600

    @property
    def cost(self) -> float:
        """What the nodes cost."""
        return self._scenario.price.per_hour * self.generators.fleet.paid_node_s(self._load.seconds) / 3600

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
        else:
            self._tasks_running -= 1
            self._workers.load.add(-1, now)
            self._take_tasks()
        if job.is_late:
            return
        latency_s = now - request.at_s
        (self.ledger.queued_s if request.queued else self.ledger.synchronous_s).append(latency_s)
        self._window().latencies_s.append(latency_s)

    def _window(self) -> Window:
        return self.windows[min(int(self.clock.now / WINDOW_S), len(self.windows) - 1)]

    def _scale_ingresses(self) -> None:
        self._ingresses.scale()
        self.clock.at(self.clock.now + self._ingresses.scaler.look_back_s, self._scale_ingresses)

    def _scale_workers(self) -> None:
        self._workers.scale(TASKS)
        self._take_tasks()
        self.clock.at(self.clock.now + self._workers.scaler.look_back_s, self._scale_workers)

    def _scale_generators(self) -> None:
        self.generators.scale()
        if self.clock.now < self._load.seconds:
            window = self._window()
            window.samples += 1
            window.running += len(self.generators.fleet.running)
            window.nodes += self.generators.fleet.nodes_now
            window.waiting += self.generators.waiting + self._queued_images
        self.clock.at(self.clock.now + self.generators.scaler.look_back_s, self._scale_generators)


def check_apps(load: Load, models: Mapping[str, str]) -> None:
    """Raises: ValueError where a load asks for an app without a model."""
    if unknown := {kind.app for kind in load.columns.kinds} - models.keys():
        raise ValueError(f"the service has no app {', '.join(sorted(unknown))}; it has {', '.join(models)}")

"""Simulates the same arrivals in virtual time with four servers: the engine's own scheduler and three baselines.

A step adds its seconds to a virtual clock, so thousands of images take a second and the figures are exact.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from deployments.config import AvatarGeneratorConfig
from deployments.diffusion.engine.latency_model import LatencyModel
from deployments.diffusion.engine.scheduler import Bucket, Row, RowScheduler
from deployments.types import AvatarSpec, FaceEmbedding, Pixels

GENERATOR = AvatarGeneratorConfig()  # the deployed settings
FOREVER = 1e12  # unix seconds
MODEL = "sleeping"
BUCKET: Bucket = (MODEL, None)
PROFILED = (1, 2, 4, 8, 16)  # batch sizes that a replica profiles at its start
NO_FACE = np.zeros(0, np.float32)
NOBODY = FaceEmbedding(NO_FACE, (0, 0, 1, 1), 1.0)
STEPS = (8, 20, 30, 50)
BURST = 8  # maximum number of images that arrive at the same time

Random = np.random.Generator
Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """Step times with 1, 2, ... images, each of which takes `rows` of the denoiser's batch: 2 with guidance.

    `steps` are those that requests of the model have.
    """

    name: str
    times_s: tuple[float, ...]
    rows: int = 2
    steps: tuple[int, ...] = STEPS

    @classmethod
    def line(cls, name: str, base_s: float, image_s: float, rows: int = 2, steps: tuple[int, ...] = STEPS) -> "Curve":
        """`base_s` and `image_s` for each image, up to as many as the deployed settings let share a step."""
        most = 2 * GENERATOR.max_rows // rows
        return cls(name, tuple(base_s + image_s * images for images in range(1, most + 1)), rows, steps)

    @property
    def images(self) -> int:
        """How many may share a step."""
        return len(self.times_s)

    def step_s(self, images: int) -> float:
        """Seconds of a step; `images` is from 1 to the length of `times_s`."""
        return self.times_s[images - 1]

    def batch_s(self, batch_size: int) -> float:
        """Seconds of a step by rows of the denoiser's batch; odd sizes are interpolated."""
        if self.rows == 1:
            return self.times_s[batch_size - 1]
        if batch_size == 1:
            return self.times_s[0] - (self.times_s[1] - self.times_s[0]) / 2
        return float(np.interp(batch_size / 2, range(1, len(self.times_s) + 1), self.times_s))

    def profile(self) -> dict[int, float]:
        """The profile that a replica measures at its start."""
        return {batch_size: self.batch_s(batch_size) for batch_size in PROFILED}

    def slower(self, more_s: float) -> "Curve":
        """The curve with `more_s` seconds added to every step."""
        return replace(self, times_s=tuple(time_s + more_s for time_s in self.times_s))

    def faster(self, factor: float) -> "Curve":
        """The curve with the seconds of every step divided by `factor`."""
        return replace(self, times_s=tuple(time_s / factor for time_s in self.times_s))


ASSUMED = (Curve.line("512", 0.014, 0.006), Curve.line("1024", 0.006, 0.024))
# FLUX.2 klein without guidance, with one head of 512 pixels: 2,560 and 5,632 tokens a row, which are 22.5 and 55 TFLOP,
# at 60% of the 790 TFLOP/s of an H200; and 5 ms for what does not grow with the rows. Nobody has measured it.
KLEIN = (Curve.line("klein 512", 0.005, 0.047, 1, (4,)), Curve.line("klein 1024", 0.005, 0.116, 1, (4,)))


Slowdown = Callable[[Sequence[str | None]], float]
"""Of the styles of the images of a step: how many times as long it takes as without LoRAs."""


def unworn(styles: Sequence[str | None]) -> float:
    """No LoRA is worn, or all are merged: 1."""
    return 1.0


class SleepingDenoiser:
    """Sleeps for the step times of a curve. Decoding takes no time, as for the baselines."""

    is_asynchronous = False

    def __init__(self, curve: Curve, slowdown: Slowdown = unworn) -> None:
        self._curve = curve
        self._slowdown = slowdown
        self.late_s: list[float] = []  # excess of each sleep

    def bucket(self, spec: AvatarSpec, face: FaceEmbedding) -> Hashable:
        """The same for all: any images may share a step."""
        return BUCKET[1]

    def batch_sizes(self, spec: AvatarSpec) -> Sequence[int]:
        """That of the curve."""
        return [self._curve.rows] * spec.num_inference_steps

    def prepare(self, specs: Sequence[AvatarSpec]) -> None:
        """At once."""

    def start(self, spec: AvatarSpec, face: FaceEmbedding) -> str | None:
        """At once. No image is computed: a sample is the LoRA that it wears."""
        return spec.lora

    def step(self, samples: Sequence[str | None]) -> "EndedStep":
        """Sleeps once for the whole batch, and appends to `late_s` by how many seconds it woke too late."""
        step_s = self._curve.step_s(len(samples)) * self._slowdown(samples)
        started = time.perf_counter()
        time.sleep(step_s)
        slept_s = time.perf_counter() - started
        self.late_s.append(slept_s - step_s)
        return EndedStep(slept_s)

    def decode(self, sample: str | None, overlapped: bool = False) -> Pixels:
        """A single black pixel, (1, 1, 3), at once."""
        return np.zeros((1, 1, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class EndedStep:
    """A step that took place on the thread that asked for it."""

    seconds: float

    def wait_s(self) -> float:
        """At once."""
        return self.seconds


@dataclass(frozen=True, slots=True)
class Arrival:
    """One requested image."""

    at_s: float  # after the start
    steps: int
    style: str | None = None  # whose LoRA it wears


Server = Callable[[Sequence[Arrival], Curve], list[float]]
"""Seconds from each arrival to its image. Arrivals are in order of time."""


class Machine(Protocol):
    """A server in virtual time, with the images of some arrivals."""

    def __len__(self) -> int:
        """How many images are here."""
        ...

    def add(self, index: int, at_s: float) -> None:
        """The arrival of this index is here since `at_s`."""
        ...

    def work(self, now_s: float) -> tuple[float, Sequence[int]]:
        """What it does next: when it ends, and which images leave then."""
        ...


@dataclass(frozen=True, slots=True)
class Served:
    """Seconds from each arrival to its image, and from the start to the last one."""

    latencies_s: list[float]
    end_s: float

    @property
    def images_per_s(self) -> float:
        """Over the whole."""
        return len(self.latencies_s) / self.end_s


def poisson(images: int, per_s: float, random: Random, steps: Sequence[int] = STEPS) -> list[Arrival]:
    """Exponential gaps with a mean of 1 / `per_s` seconds; step counts are drawn evenly from `steps`."""
    return _arrivals(np.cumsum(random.exponential(1 / per_s, images)), random, steps)


def bursty(images: int, per_s: float, random: Random, steps: Sequence[int] = STEPS) -> list[Arrival]:
    """Bursts of 1 to BURST images arrive as a Poisson process; each image has its own step count."""
    sizes = random.integers(1, BURST, images, endpoint=True)  # more than enough
    moments = np.cumsum(random.exponential((1 + BURST) / 2 / per_s, images))
    return _arrivals(np.repeat(moments, sizes)[:images], random, steps)


def backlog(images: int, random: Random, steps: Sequence[int] = STEPS) -> list[Arrival]:
    """All at once: saturates every server."""
    return _arrivals(np.zeros(images), random, steps)


def _arrivals(times_s: Times, random: Random, steps: Sequence[int]) -> list[Arrival]:
    counts = random.choice(steps, len(times_s))
    return [Arrival(float(at_s), int(count)) for at_s, count in zip(times_s, counts, strict=True)]


def served(arrivals: Sequence[Arrival], machine: Machine, in_flight: int | None = None) -> Served:
    """All arrivals by one machine. With `in_flight` one comes when another is done, whatever its time says."""
    coming, at_s = deque(range(len(arrivals))), [arrival.at_s for arrival in arrivals]
    latencies_s, now_s = [0.0] * len(arrivals), 0.0
    while len(machine) or coming:
        if in_flight is not None:
            for _ in range(min(len(coming), in_flight - len(machine))):
                at_s[coming[0]] = now_s
                machine.add(coming.popleft(), now_s)
        elif not len(machine):
            now_s = max(now_s, at_s[coming[0]])
        while in_flight is None and coming and at_s[coming[0]] <= now_s:
            machine.add(coming[0], at_s[coming.popleft()])
        now_s, done = machine.work(now_s)
        for index in done:
            latencies_s[index] = now_s - at_s[index]
    return Served(latencies_s, now_s)


Choice = Callable[[Sequence[int], str | None], Sequence[int]]
"""Of the waiting images, oldest first, and the style that is loaded: those of the next batch."""


class Batches:
    """A batch runs to its end before the next is chosen."""

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        curve: Curve,
        choose: Choice,
        slowdown: Slowdown = unworn,
        swap_s: float = 0.0,
    ) -> None:
        """`swap_s` is what it takes to load another style than that of the batch before."""
        self._arrivals = arrivals
        self._curve = curve
        self._choose = choose
        self._slowdown = slowdown
        self._swap_s = swap_s
        self._waiting: list[int] = []
        self._style: str | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, index: int, at_s: float) -> None:
        """As `Machine.add`."""
        self._waiting.append(index)

    def work(self, now_s: float) -> tuple[float, Sequence[int]]:
        """A batch, with as many steps as its longest image has."""
        batch = self._choose(self._waiting, self._style)
        styles = [self._arrivals[index].style for index in batch]
        swap_s = self._swap_s if styles[0] != self._style else 0.0
        self._style, self._waiting = styles[0], [index for index in self._waiting if index not in batch]
        steps = max(self._arrivals[index].steps for index in batch)
        return now_s + swap_s + steps * self._curve.step_s(len(batch)) * self._slowdown(styles), batch


def one_at_a_time(arrivals: Sequence[Arrival], curve: Curve) -> list[float]:
    """Every image alone, in the order of arrival."""
    return served(arrivals, Batches(arrivals, curve, lambda waiting, _style: waiting[:1])).latencies_s


def grouped(arrivals: Sequence[Arrival], curve: Curve) -> list[float]:
    """`@serve.batch` for each step count: the oldest request is batched with those of its step count.

    It does not wait for more requests, the setting of `batch_wait_timeout_s` with the best latency.
    """

    def choose(waiting: Sequence[int], _style: str | None) -> list[int]:
        steps = arrivals[waiting[0]].steps
        return [index for index in waiting if arrivals[index].steps == steps][: curve.images]

    return served(arrivals, Batches(arrivals, curve, choose)).latencies_s


def padded(arrivals: Sequence[Arrival], curve: Curve) -> list[float]:
    """`@serve.batch` over all requests: a batch takes the steps of its longest request."""
    return served(arrivals, Batches(arrivals, curve, lambda waiting, _style: waiting[: curve.images])).latencies_s


class Engine:
    """DiffusionEngine's loop with its scheduler and a latency model that knows the whole curve."""

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        curve: Curve,
        ageing: float = GENERATOR.ageing,
        slowdown: Slowdown = unworn,
    ) -> None:
        self._arrivals = arrivals
        self._curve = curve
        self._slowdown = slowdown
        self._scheduler, self._times = RowScheduler(ageing), latency_model_of(curve)
        self._denoiser = SleepingDenoiser(curve)
        self._index_of: dict[Row, int] = {}

    def __len__(self) -> int:
        return len(self._scheduler)

    def add(self, index: int, at_s: float) -> None:
        """As `Machine.add`."""
        row = Row(spec_of(self._arrivals[index].steps), NOBODY, self._denoiser, BUCKET, at_s)
        self._index_of[row] = index
        self._scheduler.add(row)

    def work(self, now_s: float) -> tuple[float, Sequence[int]]:
        """A step."""
        batch = self._scheduler.next_batch(now_s, self._times)
        for row in batch:
            row.steps_done += 1
        done = [row for row in batch if not row.steps_left]
        styles = [self._arrivals[self._index_of[row]].style for row in batch]
        self._scheduler.remove(done)
        return now_s + self._curve.step_s(len(batch)) * self._slowdown(styles), [
            self._index_of.pop(row) for row in done
        ]


def continuous(arrivals: Sequence[Arrival], curve: Curve, ageing: float = GENERATOR.ageing) -> list[float]:
    """Continuous batching, by the engine's own scheduler."""
    return served(arrivals, Engine(arrivals, curve, ageing)).latencies_s


def latency_model_of(curve: Curve) -> LatencyModel:
    """A latency model after many steps of every batch size."""
    times = LatencyModel(2 * GENERATOR.max_rows)
    for batch_size in range(1, times.max_batch_size + 1):
        times.add(BUCKET, batch_size, curve.batch_s(batch_size))
    return times


def spec_of(steps: int, model: str = MODEL, side: int = 512, seed: int = 0) -> AvatarSpec:
    """With guidance, so two rows of the denoiser's batch; it never expires. `side` in pixels."""
    return AvatarSpec(
        model=model, seed=seed, prompt="a man", negative_prompt="glasses", width=side, height=side,
        num_inference_steps=steps, guidance_scale=3.0, task_id="", image_index=0, submitted_at=0.0, deadline=FOREVER,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from arrival to image over one run, or ratios of two runs (`over`)."""

    mean_s: float
    p95_s: float
    shortest_s: float  # mean of the images with the fewest steps

    @classmethod
    def of(cls, arrivals: Sequence[Arrival], latencies_s: Sequence[float]) -> "Latency":
        """`latencies_s` in the order of `arrivals`, of which there is at least one."""
        fewest = min(arrival.steps for arrival in arrivals)
        short = [latency_s for arrival, latency_s in zip(arrivals, latencies_s, strict=True) if arrival.steps == fewest]
        return cls(statistics.fmean(latencies_s), float(np.percentile(latencies_s, 95)), statistics.fmean(short))

    def over(self, other: "Latency") -> "Latency":
        """The ratio of the two."""
        return Latency(self.mean_s / other.mean_s, self.p95_s / other.p95_s, self.shortest_s / other.shortest_s)

    @classmethod
    def median(cls, several: Sequence["Latency"]) -> "Latency":
        """The median of each figure by itself, so the three may be from different runs."""
        return cls(*(statistics.median(column) for column in zip(*map(_values, several), strict=True)))


def _values(latency: Latency) -> tuple[float, float, float]:
    return latency.mean_s, latency.p95_s, latency.shortest_s


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure and its target."""

    name: str
    value: float
    wanted: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """A value equal to its target meets it."""
        return self.value <= self.wanted if self.at_most else self.value >= self.wanted

    def __str__(self) -> str:
        return f"{self.value:.3g} ({'at most' if self.at_most else 'at least'} {self.wanted:g})"


SERVERS: dict[str, Server] = {
    "engine": continuous,
    "one at a time": one_at_a_time,
    "grouped": grouped,
    "padded": padded,
}

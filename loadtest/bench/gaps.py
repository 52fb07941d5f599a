"""How long a GPU waits for the engine between two steps, with a device that only keeps time.

    python -m loadtest.bench.gaps --json gaps.json

The engine, its threads and its scheduler are the service's own. A step of eight images lasts 20 ms on the device: the
host launches it, which takes a part of that, and goes on; only who asks for a result waits. Preparing an image and
decoding it take time of the host and of the device, as text encoders and a VAE do. All the time there are more images
than a step has, and they join and leave one by one. A gap is the time in which the device had nothing to do before a
step, because the step was not yet launched.

A thread beside it, which only asks to be woken each millisecond, shows by how much the machine wakes threads too late.
Where that is much, as amid other programs, the gaps are the machine's and say nothing about the engine.
"""

import argparse
import json
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from deployments.diffusion.engine.engine import DiffusionEngine, Launch
from deployments.diffusion.engine.latency_model import LatencyModel
from deployments.diffusion.engine.scheduler import Bucket, Row
from deployments.types import AvatarSpec, FaceEmbedding, Pixels
from loadtest.bench.engine.queues import GENERATOR, MODEL, NOBODY, Bar, Curve, spec_of

CURVE = Curve.line("512", 0.012, 0.001)
STEP_S = CURVE.step_s(GENERATOR.max_rows)  # 20 ms
LAUNCH_S = 0.008  # of the host, in which it launches the kernels of a step; the device begins with the first
PREPARE_S = 0.005  # of the host for an image: tokens, text encoders, noise
ENCODE_S = 0.002  # of the device for the text encoders
DECODE_LAUNCH_S = 0.003
DECODE_S = 0.015  # of the device for a picture
STEPS = (4, 8, 12, 20)  # of an image: short, so that one joins and one leaves with most steps
UNFINISHED = 14  # images at any time; a step has eight, and some are prepared or decoded
WITNESS_EVERY_S = 0.001
LIMIT_S = 60.0  # longer than any image takes
PICTURE = np.zeros((1, 1, 3), np.uint8)


class Clock:
    """Seconds that pass by themselves."""

    def now_s(self) -> float:
        """Since some moment."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """As a host that computes or waits outside of Python; returns at once for a negative time."""
        if seconds > 0:
            time.sleep(seconds)


@dataclass(slots=True)
class Sample:
    """An image, as far as its device knows it."""

    ready_at_s: float  # when what was launched for it is done


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """A step that was launched."""

    clock: Clock
    begin_s: float
    end_s: float

    def wait_s(self) -> float:
        """Until its end."""
        self.clock.sleep(self.end_s - self.clock.now_s())
        return self.end_s - self.begin_s


class Stream:
    """Does one piece of work after the other, in the order of their launches. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._free_at_s = clock.now_s()
        self._idle_s = 0.0
        self._lock = threading.Lock()

    def launch(self, seconds: float, after_s: float = 0.0) -> tuple[float, float]:
        """When work that lasts `seconds`, and waits for the moment `after_s`, begins and ends. Does not wait for it."""
        with self._lock:
            begin_s = max(self._free_at_s, self._clock.now_s(), after_s)
            self._idle_s += begin_s - self._free_at_s
            self._free_at_s = begin_s + seconds
            return begin_s, self._free_at_s

    def lasts_until(self, moment_s: float) -> None:
        """The last work has not ended before: its last kernel was launched then."""
        with self._lock:
            self._free_at_s = max(self._free_at_s, moment_s)

    def take_idle_s(self) -> float:
        """Seconds without work since the last call."""
        with self._lock:
            idle_s, self._idle_s = self._idle_s, 0.0
        return idle_s


class TimekeepingDenoiser:
    """A model on a device of its own. Steps and what prepares them share a stream, pictures have another."""

    is_asynchronous = True

    def __init__(self, curve: Curve, clock: Clock | None = None) -> None:
        self._curve = curve
        self._clock = clock or Clock()
        self._steps, self._pictures = Stream(self._clock), Stream(self._clock)
        self.gaps_s: list[float] = []  # before each step but the first

    def bucket(self, spec: AvatarSpec, face: FaceEmbedding) -> Hashable:
        """The same for all: any images may share a step."""
        return None

    def batch_sizes(self, spec: AvatarSpec) -> Sequence[int]:
        """As Stable Diffusion: 2 with guidance."""
        return [2 if spec.guidance_scale > 1 else 1] * spec.num_inference_steps

    def prepare(self, specs: Sequence[AvatarSpec]) -> None:
        """At once."""

    def start(self, spec: AvatarSpec, face: FaceEmbedding) -> Sample:
        """Copies to the device wait for nothing, so neither does the host."""
        self._clock.sleep(PREPARE_S)
        return Sample(self._steps.launch(ENCODE_S)[1])

    def step(self, samples: Sequence[Sample]) -> LaunchedStep:
        """Appends to `gaps_s` for how long the device had nothing to do."""
        begin_s, end_s = self._steps.launch(self._curve.step_s(len(samples)))
        self.gaps_s.append(self._steps.take_idle_s())
        self._clock.sleep(LAUNCH_S)
        self._steps.lasts_until(self._clock.now_s())
        end_s = max(end_s, self._clock.now_s())
        for sample in samples:
            sample.ready_at_s = end_s
        return LaunchedStep(self._clock, begin_s, end_s)

    def decode(self, sample: Sample, overlapped: bool = False) -> Pixels:
        """A single black pixel, (1, 1, 3), when the device has made it."""
        _begin_s, end_s = self._pictures.launch(DECODE_S, after_s=sample.ready_at_s)
        self._clock.sleep(DECODE_LAUNCH_S)
        self._clock.sleep(end_s - self._clock.now_s())
        return PICTURE


class StepLog:
    """Receives the engine's events."""

    def __init__(self) -> None:
        self.images: list[int] = []  # that shared each step
        self.joined_images = 0

    def joined(self, rows: Sequence[Row]) -> None:
        """Counts them."""
        self.joined_images += len(rows)

    def stepped(self, launch: Launch, seconds: float, waiting: Mapping[Bucket, int]) -> None:
        """Counts the step's images."""
        self.images.append(len(launch.rows))


class Witness:
    """Measures by how many seconds a thread that has nothing to do wakes too late."""

    def __init__(self) -> None:
        self.late_s: list[float] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Witness":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.is_set():
            asked_s = time.perf_counter()
            time.sleep(WITNESS_EVERY_S)
            self.late_s.append(time.perf_counter() - asked_s - WITNESS_EVERY_S)


@dataclass(frozen=True, slots=True)
class Gaps:
    """What a run found. Gaps are in percent of a step of eight images."""

    steps: int
    images: int
    images_a_step: float
    p50: float
    p99: float
    longest: float
    idle: float  # percent of the whole time
    learned_ms: float  # of a step of eight images, by the latency model
    late: float  # p99 of the witness, in percent of a step

    @property
    def bars(self) -> tuple[Bar, ...]:
        """The figures that have a target."""
        true_ms = 1000 * STEP_S
        return (
            Bar("gap before a step, p99, % of a step", self.p99, 2, at_most=True),
            Bar("learned time of a step, off by %", 100 * abs(self.learned_ms / true_ms - 1), 5, at_most=True),
        )


def run(seconds: float, denoiser: TimekeepingDenoiser) -> Gaps:
    """Submits an image whenever one is done, for so many seconds of real time."""
    times, log = LatencyModel(2 * GENERATOR.max_rows), StepLog()
    times.set_profile(MODEL, CURVE.profile())
    engine = DiffusionEngine(times, GENERATOR.ageing, log)
    room, random, began_s = threading.Semaphore(UNFINISHED), np.random.default_rng(0), time.perf_counter()
    rows: list[Row] = []
    with Witness() as witness:
        while time.perf_counter() - began_s < seconds:
            room.acquire()
            rows.append(engine.submit(spec_of(int(random.choice(STEPS)), seed=len(rows)), NOBODY, denoiser))
            rows[-1].future.add_done_callback(lambda _image: room.release())
    gaps_s, ran_s = denoiser.gaps_s[1:], time.perf_counter() - began_s  # later steps lack images
    for row in rows:
        row.future.result(LIMIT_S)
    engine.close()
    p50, p99 = np.percentile(gaps_s, [50, 99])
    return Gaps(
        steps=len(gaps_s),
        images=log.joined_images,
        images_a_step=float(np.mean(log.images)),
        p50=100 * float(p50) / STEP_S,
        p99=100 * float(p99) / STEP_S,
        longest=100 * max(gaps_s) / STEP_S,
        idle=100 * sum(gaps_s) / ran_s,
        late=100 * float(np.percentile(witness.late_s, 99)) / STEP_S,
        learned_ms=1000 * times.step_s(rows[0].bucket, 2 * GENERATOR.max_rows),
    )


def show(gaps: Gaps) -> Table:
    """A row for each figure."""
    table = Table("", "", title=f"{gaps.steps} steps of {gaps.images_a_step:.1f} images, {gaps.images} images")
    for name, value in (
        ("gap before a step, median", gaps.p50),
        ("longest", gaps.longest),
        ("time without work", gaps.idle),
        ("this machine wakes a thread too late, p99, % of a step", gaps.late),
    ):
        table.add_row(name, f"{value:.2f}%")
    for bar in gaps.bars:
        table.add_row(bar.name, f"{bar} {'' if bar.met else 'NOT MET'}".rstrip())
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, and writes the file that is asked for. `arguments` of None: those of the process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="of the run")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args(arguments)
    gaps = run(options.seconds, TimekeepingDenoiser(CURVE))
    Console().print(show(gaps))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(gaps), indent=1) + "\n")


if __name__ == "__main__":
    main()

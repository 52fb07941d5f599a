"""The real engine and its thread in real time: with any denoiser, and compared with diffusers' own pipeline."""

import statistics
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from deployments.config import DiffusionModelConfig, model_path
from deployments.diffusion.engine.denoiser import Denoiser, StepInFlight
from deployments.diffusion.engine.engine import DiffusionEngine, Launch
from deployments.diffusion.engine.latency_model import LatencyModel
from deployments.diffusion.engine.scheduler import Bucket, Row
from deployments.diffusion.model.denoiser import FaceDiffusionModel
from deployments.diffusion.model.precision import dtype_of
from deployments.types import AvatarSpec, FaceEmbedding, Pixels, Vector
from loadtest.bench.engine.queues import GENERATOR, PROFILED, Arrival, Bar, poisson, spec_of
from loadtest.bench.random_face import random_face

T = TypeVar("T")
LIMIT_S = 300  # longer than any image takes
PROMPT, NEGATIVE_PROMPT = spec_of(1).prompt, spec_of(1).negative_prompt


class Meter:
    """Wraps the denoiser and measures the time that the engine's thread spends outside of it."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self.steps_s: list[float] = []
        self.joins: list[float] = []  # from arrival to the first step, in units of the step before it
        self.own_s = 0.0
        self._waiting = 0
        self._undecoded = 0
        self._left_at = 0.0  # when the last denoiser call returned

    @property
    def is_asynchronous(self) -> bool:
        """The wrapped denoiser's answer, which must be no: calls on other threads than the engine's are not timed."""
        return self._denoiser.is_asynchronous

    def bucket(self, spec: AvatarSpec, face: FaceEmbedding) -> Hashable:
        """The wrapped denoiser's; not timed, as `submit` calls it outside of the engine's thread."""
        return self._denoiser.bucket(spec, face)

    def batch_sizes(self, spec: AvatarSpec) -> Sequence[int]:
        """The wrapped denoiser's."""
        return self._denoiser.batch_sizes(spec)

    def prepare(self, specs: Sequence[AvatarSpec]) -> None:
        """The wrapped denoiser's; the time in it is not the engine's own."""
        with self._inside():
            self._denoiser.prepare(specs)

    def start(self, spec: AvatarSpec, face: FaceEmbedding) -> Any:
        """The wrapped denoiser's sample; the time in it is not the engine's own."""
        with self._inside():
            return self._denoiser.start(spec, face)

    def step(self, samples: Sequence[Any]) -> StepInFlight:
        """Steps the wrapped denoiser's samples in place; the time in it is not the engine's own."""
        with self._inside():
            return self._denoiser.step(samples)

    def decode(self, sample: Any, overlapped: bool = False) -> Pixels:
        """The wrapped denoiser's image; overlapped, it is on the decoding thread and not timed."""
        if overlapped:  # not in the engine's thread
            self._undecoded -= 1
            return self._denoiser.decode(sample, overlapped)
        with self._inside():
            pixels = self._denoiser.decode(sample)
        self._undecoded -= 1
        return pixels

    def joined(self, rows: Sequence[Row]) -> None:
        """The engine calls it before `stepped`; those of the first step are left out, as there is no step before."""
        if self.steps_s:
            waits_s = [row.joined_at - row.arrived_at for row in rows if row.joined_at is not None]
            self.joins += [wait_s / self.steps_s[-1] for wait_s in waits_s]

    def stepped(self, launch: Launch, seconds: float, waiting: Mapping[Bucket, int]) -> None:
        """The engine calls it after each step."""
        self.steps_s.append(seconds)
        self._waiting = sum(waiting.values())
        self._undecoded += sum(not row.steps_left for row in launch.rows)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Time since the last call is the engine's overhead, unless it was idle."""
        if self._waiting or self._undecoded:
            self.own_s += time.perf_counter() - self._left_at
        yield
        self._left_at = time.perf_counter()


class Cost(NamedTuple):
    """Wall time, and CPU time of this process: on a busy machine the second one says more."""

    whole_s: float
    cpu_s: float

    @classmethod
    def now(cls) -> "Cost":
        """Two clocks of arbitrary zero: only the difference of two costs has a meaning."""
        return cls(time.monotonic(), time.process_time())

    def __sub__(self, began: "Cost") -> "Cost":
        return Cost(self.whole_s - began.whole_s, self.cpu_s - began.cpu_s)


@dataclass(frozen=True, slots=True)
class Run:
    """Figures of the engine for some arrivals."""

    latencies_s: list[float]
    joins: list[float]  # from arrival to the first step, in units of the step before it
    step_s: float  # mean
    own_s: float  # overhead of the engine's thread, a step
    cost: Cost


def run(
    denoiser: Denoiser,
    model: str,
    profile: Mapping[int, float],
    arrivals: Sequence[Arrival],
    side: int,
    unfinished: int | None = None,
) -> Run:
    """Submit each image at its arrival time, or later at the limit of unfinished ones. `side` in pixels."""
    room = threading.Semaphore(unfinished or len(arrivals))
    times, meter = LatencyModel(2 * GENERATOR.max_rows), Meter(denoiser)
    times.set_profile(model, profile)
    engine = DiffusionEngine(times, GENERATOR.ageing, meter)
    try:
        began, rows = Cost.now(), []
        for number, arrival in enumerate(arrivals):
            time.sleep(max(0.0, began.whole_s + arrival.at_s - time.monotonic()))
            room.acquire()
            rows.append(engine.submit(spec_of(arrival.steps, model, side, number), random_face(number), meter))
            rows[-1].future.add_done_callback(lambda _image: room.release())
        images = [row.future.result(LIMIT_S) for row in rows]
        cost = Cost.now() - began
    finally:
        engine.close()
    steps = len(meter.steps_s)
    latencies_s = [image.runtime_s for image in images]
    return Run(latencies_s, meter.joins, sum(meter.steps_s) / steps, meter.own_s / steps, cost)


def in_own_thread(draw: Callable[[], T]) -> T:
    """Call `draw` on a thread that ends with it.

    OpenMP keeps a team for each thread that ever computed, and lets all teams sleep between two loops where their
    threads exceed the cores: later threads would be slowed by earlier ones.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(draw).result()


class LibraryPipeline:
    """diffusers' StableDiffusionPipeline with the same weights and adapter, used as documented."""

    def __init__(self, config: DiffusionModelConfig) -> None:
        assert config.ip_adapter is not None  # the embedded model has one
        adapter = model_path(config.ip_adapter)
        self._pipeline = StableDiffusionPipeline.from_pretrained(
            model_path(config.path), safety_checker=None, requires_safety_checker=False, dtype=dtype_of(config)
        )
        self._pipeline.load_ip_adapter(
            str(adapter.parent), subfolder="", weight_name=adapter.name, image_encoder_folder=None
        )
        self._pipeline.set_progress_bar_config(disable=True)

    def draw_all(self, steps: Sequence[int], side: int, batch: int) -> "Cost":
        """Images with these step counts, in batches of `batch` consecutive ones, which have the same count."""
        began = Cost.now()
        for first in range(0, len(steps), batch):
            seeds = range(first, min(first + batch, len(steps)))
            prompts = Prompts(PROMPT, NEGATIVE_PROMPT, spec_of(1).guidance_scale)
            self.draw([random_face(seed).vector for seed in seeds], seeds, prompts, steps[first], side)
        return Cost.now() - began

    def draw(
        self, faces: Sequence[Vector], seeds: Sequence[int], prompts: "Prompts", steps: int, side: int
    ) -> list[Pixels]:
        """An image of each face in one batch: the library has one step count for a batch."""
        vectors = torch.stack([torch.from_numpy(vector) for vector in faces])[:, None]  # (images, 1, 512)
        vectors = vectors.to(self._pipeline.unet.dtype)
        drawn = self._pipeline(
            prompt=[prompts.prompt] * len(seeds),
            negative_prompt=[prompts.negative] * len(seeds),
            ip_adapter_image_embeds=[torch.cat([torch.zeros_like(vectors), vectors])],
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            guidance_scale=prompts.guidance_scale,
            num_inference_steps=steps,
            height=side,
            width=side,
            output_type="np",
        ).images
        return [(picture * 255).round().astype(np.uint8) for picture in drawn]


@dataclass(frozen=True, slots=True)
class Prompts:
    """For all images of a batch; `guidance_scale` is above 1, as `LibraryPipeline` embeds faces for both branches."""

    prompt: str
    negative: str
    guidance_scale: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """Medians over the rounds."""

    images_per_s: float
    cpu_s: float  # an image

    @classmethod
    def of(cls, images: int, rounds: Sequence[Cost]) -> "Drawn":
        """Each round is the cost of `images` images; the medians of wall and CPU time are taken apart."""
        whole_s, cpu_s = (statistics.median(column) for column in zip(*rounds, strict=True))
        return cls(images / whole_s, cpu_s / images)


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embedded model on the CPU of this machine."""

    side: int  # pixels
    steps: tuple[int, ...]
    engine: Drawn
    library: Mapping[int, Drawn]  # by batch size
    step_ms: float
    own_ms: float
    bars: tuple[Bar, ...]


def embedded(counts: tuple[int, ...], rounds: int, light_images: int, side: int = 256, together: int = 4) -> Embedded:
    """`together` images of each step count, at once; then `light_images` with room left in the batch.

    The engine and the library alternate, so that other programs on the machine slow both alike.
    """
    config = GENERATOR.models["embedded"]
    model, library = in_own_thread(lambda: (FaceDiffusionModel.load(config), LibraryPipeline(config)))
    profile = in_own_thread(lambda: model.profile(PROFILED))
    arrivals = [Arrival(0, count) for count in counts for _ in range(together)]
    steps = [arrival.steps for arrival in arrivals]
    in_own_thread(lambda: library.draw_all([2], side, 1))  # the first one is slower
    runs: list[Run] = []
    costs: dict[int, list[Cost]] = {1: [], together: []}
    for _ in range(rounds):
        for batch, each in costs.items():
            each.append(in_own_thread(partial(library.draw_all, steps, side, batch)))
        runs.append(run(model, "embedded", profile, arrivals, side))
    engine = Drawn.of(len(steps), [each.cost for each in runs])
    per_s = 0.4 * engine.images_per_s
    light = poisson(light_images, per_s, np.random.default_rng(0), counts)
    joins = run(model, "embedded", profile, light, side, unfinished=together - 1).joins
    own = [100 * each.own_s / each.step_s for each in runs]
    return Embedded(
        side,
        counts,
        engine,
        {batch: Drawn.of(len(steps), each) for batch, each in costs.items()},
        statistics.median(each.step_s for each in runs) * 1000,
        statistics.median(each.own_s for each in runs) * 1000,
        (
            Bar(
                "wait for the first step while there is room, p95, in steps", float(np.percentile(joins, 95)), 1.5, True
            ),
            Bar("own time, % of a step", statistics.median(own), 2, True),
        ),
    )

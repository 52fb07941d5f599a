"""Times of one model on a device, driven through the project's own model class."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from deployments.diffusion.compilation import COMPILED_IMAGES
from deployments.diffusion.engine.denoiser import OutOfMemoryError
from deployments.diffusion.model.denoiser import FaceDiffusionModel, Sample
from deployments.types import AvatarSpec
from loadtest.bench.gpu.figures import DecodeTime, Images, MatrixProduct, StartTime, StepTime
from loadtest.bench.random_face import random_face

PROMPT = "portrait of a person, joyous, plain background"  # one window of the text encoders
NEGATIVE_PROMPT = "blurry, watermark"
GUIDANCE_SCALE = 5.0
WARM_UPS = 3


class Stopwatch:
    """Seconds between marks, by the device's own clock: the host runs ahead of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[Any] = []

    def mark(self) -> None:
        """On a GPU it only queues an event behind the work launched so far, so the host does not wait."""
        if not self._cuda:
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append(event)

    def intervals_s(self) -> list[float]:
        """One less than there are marks; on a GPU it waits until all work is done."""
        if not self._cuda:
            return [after - before for before, after in pairwise(self._marks)]
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1000 for before, after in pairwise(self._marks)]


def seconds(work: Callable[[], object], device: torch.device, repeats: int, warm_ups: int = WARM_UPS) -> float:
    """The median of `repeats` consecutive runs, after some warm-up runs."""
    for _ in range(warm_ups):
        work()
    watch = Stopwatch(device)
    watch.mark()
    for _ in range(repeats):
        work()
        watch.mark()
    return statistics.median(watch.intervals_s())


def teraflop(work: Callable[[], object]) -> float:
    """10^12 FLOPs of its matrix products, convolutions and attention: two for each multiplication."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops()) / 1e12


def matrix_product(side: int, device: torch.device, dtype: torch.dtype, repeats: int) -> MatrixProduct:
    """Times `torch.mm` on two (side, side) matrices: 2 * side^3 FLOPs."""
    # Normal numbers, as in a model: a product of zeros is faster.
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    product_s = seconds(lambda: torch.mm(left, right, out=out), device, repeats)
    return MatrixProduct(side, 1000 * product_s, 2 * side**3 / product_s / 1e12)


@dataclass(frozen=True, slots=True)
class Bench:
    """Times one model at square sizes."""

    model: FaceDiffusionModel
    device: torch.device
    repeats: int
    tflop_per_s: float  # of the matrix product

    def start_time(self, size_px: int) -> StartTime:
        """One row, with a prompt that is new each time: encoded prompts are cached."""
        prompts = iter([f"{PROMPT} {number}" for number in range(WARM_UPS + self.repeats)])
        start_s = seconds(lambda: self._start(size_px, 1, 1, next(prompts)), self.device, self.repeats)
        return StartTime(size_px, 1000 * start_s)

    def step_tflop(self, size_px: int) -> float:
        """10^12 FLOPs of a step of one row."""
        samples = self._start(size_px, 1, 1)
        return teraflop(lambda: self.model.step(samples))

    def step_times(self, size_px: int, all_rows: Sequence[int], compile_backend: str | None) -> Iterator[StepTime]:
        """One for each of `all_rows`, also where it runs out of memory. Raises: ArithmeticError as `step_s`.

        With a backend of torch.compile the graphs of a replica are compiled first, for as many rows as there are.
        """
        tflop = self.step_tflop(size_px)  # not to be counted in graphs
        compiled = [] if compile_backend is None else [rows for rows in COMPILED_IMAGES if rows <= max(all_rows)]
        for rows in compiled:
            self.compile_s(size_px, rows, compile_backend or "")
        for rows in all_rows:
            padded_to = min((size for size in compiled if size >= rows), default=rows)
            try:
                _, step_s = self.step_s(size_px, rows)
            except OutOfMemoryError:
                yield StepTime(size_px, rows, padded_to, None, rows * tflop, None)
            else:
                mfu = self.mfu(rows * tflop, step_s)
                yield StepTime(size_px, rows, padded_to, 1000 * step_s, rows * tflop, mfu)

    def compile_s(self, size_px: int, rows: int, backend: str) -> float:
        """Seconds of compiling the graph for so many images, each with guidance."""
        began = time.perf_counter()
        self.model.compile((size_px, size_px), 2 * rows, backend)
        return time.perf_counter() - began

    def step_s(self, size_px: int, rows: int) -> tuple[float, float]:
        """The first step, and the median of later ones.

        Raises: OutOfMemoryError; ArithmeticError where the numbers do not stay finite: their times are meaningless.
        """
        samples = self._start(size_px, rows, 1 + WARM_UPS + self.repeats)
        first_s = seconds(lambda: self.model.step(samples), self.device, repeats=1, warm_ups=0)
        step_s = seconds(lambda: self.model.step(samples), self.device, self.repeats)
        if not all(sample.latents.isfinite().all() for sample in samples):
            raise ArithmeticError(f"The latents of {rows} rows at {size_px} pixels did not stay finite")
        return first_s, step_s

    def decode_time(self, size_px: int) -> DecodeTime:
        """The decoding of one image, its FLOPs included. Raises: OutOfMemoryError."""
        tflop = teraflop(lambda: self.model.decode(self._start(size_px, 1, 1)[0]))
        decode_s = self.decode_s(size_px)
        return DecodeTime(size_px, 1000 * decode_s, tflop, self.mfu(tflop, decode_s))

    def decode_s(self, size_px: int) -> float:
        """Median seconds in which one latent becomes an image on the host. Raises: OutOfMemoryError."""
        (sample,) = self._start(size_px, 1, 1)
        return seconds(lambda: self.model.decode(sample), self.device, self.repeats)

    def images(self, size_px: int, rows: int, steps: int) -> Images:
        """A single run of `rows` images that share all steps, without a warm-up; resets CUDA's peak of memory."""
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            draw_s = seconds(lambda: self._draw(size_px, rows, steps), self.device, repeats=1, warm_ups=0)
        except (OutOfMemoryError, torch.OutOfMemoryError):
            return Images(size_px, rows, steps, None, None)
        peak_gib = torch.cuda.max_memory_allocated(self.device) / 2**30 if cuda else None
        return Images(size_px, rows, steps, rows / draw_s, peak_gib)

    def mfu(self, tflop: float, duration_s: float) -> float:
        """The fraction of the matrix product's speed."""
        return tflop / duration_s / self.tflop_per_s

    def _draw(self, size_px: int, rows: int, steps: int) -> None:
        samples = self._start(size_px, rows, steps)
        for _ in range(steps):
            self.model.step(samples)
        for sample in samples:
            self.model.decode(sample)

    def _start(self, size_px: int, rows: int, steps: int, prompt: str = PROMPT) -> list[Sample]:
        return [self.model.start(_spec(size_px, steps, prompt, seed), random_face(seed)) for seed in range(rows)]


def _spec(size_px: int, steps: int, prompt: str, seed: int) -> AvatarSpec:
    return AvatarSpec(
        model="", seed=seed, prompt=prompt, negative_prompt=NEGATIVE_PROMPT, width=size_px, height=size_px,
        num_inference_steps=steps, guidance_scale=GUIDANCE_SCALE, task_id="", image_index=0, submitted_at=0.0,
        deadline=0.0,
    )  # fmt: skip

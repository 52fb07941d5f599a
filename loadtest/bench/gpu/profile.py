"""The gaps between the steps of a model that the service's engine drives."""

import threading
import time
from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from deployments.diffusion.engine.engine import DiffusionEngine
from deployments.diffusion.engine.latency_model import LatencyModel
from deployments.diffusion.engine.scheduler import Row
from deployments.diffusion.model.denoiser import FaceDiffusionModel, Sample
from deployments.diffusion.model.timeline import TimedStep
from deployments.types import AvatarSpec, FaceEmbedding, Pixels
from loadtest.bench.engine.queues import GENERATOR, spec_of
from loadtest.bench.gpu.figures import Gaps
from loadtest.bench.random_face import random_face

MODEL = "profiled"
PROFILED = (1, 2, 4, 8, 16)  # batch sizes, as a replica profiles them
WAITING = 6  # images beside those of a full step
LIMIT_S = 600.0  # longer than any image takes


class RecordedModel:
    """A model, and the steps that it made."""

    def __init__(self, model: FaceDiffusionModel) -> None:
        self._model = model
        self.is_asynchronous = model.is_asynchronous
        self.steps: list[tuple[int, TimedStep]] = []  # with how many images

    def bucket(self, spec: AvatarSpec, face: FaceEmbedding) -> Hashable:
        """The model's."""
        return self._model.bucket(spec, face)

    def batch_sizes(self, spec: AvatarSpec) -> Sequence[int]:
        """The model's."""
        return self._model.batch_sizes(spec)

    def prepare(self, specs: Sequence[AvatarSpec]) -> None:
        """The model's."""
        self._model.prepare(specs)

    def start(self, spec: AvatarSpec, face: FaceEmbedding) -> Sample:
        """The model's."""
        return self._model.start(spec, face)

    def step(self, samples: Sequence[Any]) -> TimedStep:
        """The model's, which is recorded."""
        step = self._model.step(samples)
        self.steps.append((len(samples), step))
        return step

    def decode(self, sample: Any, overlapped: bool = False) -> Pixels:
        """The model's."""
        return self._model.decode(sample, overlapped)


def profile_gaps(model: FaceDiffusionModel, size_px: int, images: int, steps: Sequence[int]) -> Gaps:
    """Draws `images`, whose numbers of steps are drawn evenly from `steps`, never fewer at a time than a step has.

    The prompt is cached, as that of an app's style is.
    """
    times, recorded = LatencyModel(2 * GENERATOR.max_rows), RecordedModel(model)
    times.set_profile(MODEL, model.profile(PROFILED))
    engine = DiffusionEngine(times, GENERATOR.ageing)
    room, random, rows = threading.Semaphore(GENERATOR.max_rows + WAITING), np.random.default_rng(0), list[Row]()
    face = random_face(0)
    began = time.perf_counter()
    for number in range(images):
        room.acquire()
        rows.append(engine.submit(spec_of(int(random.choice(steps)), MODEL, size_px, number), face, recorded))
        rows[-1].future.add_done_callback(lambda _image: room.release())
    for row in rows:
        row.future.result(LIMIT_S)
    ran_s = time.perf_counter() - began
    engine.close()
    return _gaps(size_px, images / ran_s, recorded.steps)


def _gaps(size_px: int, images_per_s: float, made: Sequence[tuple[int, TimedStep]]) -> Gaps:
    rows, steps = zip(*made, strict=True)
    steps_s = [step.wait_s() for step in steps]
    gaps_s = [max(0.0, before.timeline.seconds(before.end, after.begin)) for before, after in pairwise(steps)]
    p50_s, p99_s = np.percentile(gaps_s, [50, 99])
    return Gaps(
        size_px=size_px,
        steps=len(steps),
        images_per_s=images_per_s,
        rows_a_step=float(np.mean(rows)),
        step_ms=1000 * float(np.mean(steps_s)),
        gap_p50_ms=1000 * float(p50_s),
        gap_p99_ms=1000 * float(p99_s),
        gap_longest_ms=1000 * max(gaps_s),
        gaps=sum(gaps_s) / (sum(gaps_s) + sum(steps_s)),
    )

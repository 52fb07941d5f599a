"""Small truths that stand in for models where a test is about something else."""

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from deployments.diffusion.engine.denoiser import OutOfMemoryError
from deployments.diffusion.engine.scheduler import Row
from deployments.types import AvatarSpec, FaceEmbedding, Pixels

FOREVER = 1e12  # unix seconds


def avatar_spec(**changes: object) -> AvatarSpec:
    values: dict[str, object] = {
        "model": "fake",
        "seed": 7,
        "prompt": "a man",
        "negative_prompt": "",
        "width": 4,
        "height": 4,
        "num_inference_steps": 3,
        "guidance_scale": 2.0,
        "task_id": "task",
        "image_index": 0,
        "submitted_at": 0.0,
        "deadline": FOREVER,
    }
    return AvatarSpec(**(values | changes))  # type: ignore[arg-type]


def face(value: float = 1.0) -> FaceEmbedding:
    return FaceEmbedding(np.full(512, value, np.float32), (0, 0, 1, 1), 1.0)


def row(
    *,
    size: Hashable = "a",
    arrived_at: float = 0.0,
    steps_done: int = 0,
    joined_at: float | None = None,
    sizes: Sequence[int] = (),
    **changes: object,
) -> Row:
    spec = avatar_spec(**({"num_inference_steps": len(sizes)} if sizes else {}) | changes)
    return Row(spec, face(), CountingDenoiser(sizes), (spec.model, size), arrived_at, steps_done, joined_at)


@dataclass
class CountedStep:
    """Ends when the gate opens; fails then with the first of `errors`."""

    seconds: float
    gate: threading.Event
    errors: list[Exception]

    def wait_s(self) -> float:
        assert self.gate.wait(10)
        if self.errors:
            raise self.errors.pop(0)
        return self.seconds


@dataclass
class Count:
    """A sample that counts its steps."""

    seed: int
    steps: int
    done: int = 0


class CountingDenoiser:
    """Its images show their seed in every byte; decoding fails where a step is missing or was made twice.

    Waits before each step while `gate` is closed, before each decoding beside steps while `overlap_gate` is, and before
    a sample is made while the gate of its seed in `start_gates` is. Steps end while `end_gate` is open.
    """

    def __init__(self, sizes: Sequence[int] = ()) -> None:
        """`sizes`: the rows of the batch that each image takes, by step, where it is not the same in all of them."""
        self.sizes = sizes
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.batches: list[list[int]] = []  # the seeds that shared each step
        self.prepared: list[list[int]] = []  # the seeds of each call
        self.unpreparable: int | None = None  # a seed that all it would be prepared with cannot be prepared with
        self.poison: int | None = None
        self.fits = 100  # samples in memory
        self.refused: list[int] = []  # how many did not fit, by step
        self.undecodable: list[int] = []  # seeds whose decoding runs out of memory, each as often as it is listed
        self.start_gates: dict[int, threading.Event] = {}
        self.unstartable: list[int] = []  # seeds whose start runs out of memory, each as often as it is listed
        self.is_asynchronous = False
        self.step_s = 0.0
        self.end_gate = threading.Event()
        self.end_gate.set()
        self.end_errors: list[Exception] = []  # of the next steps, when they end
        self.overlap_gate = threading.Event()
        self.overlap_gate.set()
        self.decoded_overlapped: list[int] = []  # seeds

    def bucket(self, spec: AvatarSpec, _face: FaceEmbedding) -> Hashable:
        return spec.width, spec.height

    def batch_sizes(self, spec: AvatarSpec) -> Sequence[int]:
        return self.sizes or [2 if spec.guidance_scale > 1 else 1] * spec.num_inference_steps

    def prepare(self, specs: Sequence[AvatarSpec]) -> None:
        self.prepared.append([spec.seed for spec in specs])
        if self.unpreparable in self.prepared[-1]:
            raise ValueError("the prompt of one of them cannot be read")

    def start(self, spec: AvatarSpec, _face: FaceEmbedding) -> Count:
        if spec.seed in self.start_gates:
            assert self.start_gates[spec.seed].wait(10)
        if spec.seed in self.unstartable:
            self.unstartable.remove(spec.seed)
            raise OutOfMemoryError("there is no room for a sample")
        return Count(spec.seed, spec.num_inference_steps)

    def step(self, samples: Sequence[Count]) -> CountedStep:
        self.started.set()
        assert self.gate.wait(10)
        seeds = [sample.seed for sample in samples]
        if len(samples) > self.fits:
            self.refused.append(len(samples))
            raise OutOfMemoryError(f"{len(samples)} are too many")
        if self.poison in seeds:
            raise ValueError(f"seed {self.poison} cannot be drawn")
        self.batches.append(seeds)
        for sample in samples:
            sample.done += 1
        return CountedStep(self.step_s, self.end_gate, self.end_errors)

    def decode(self, sample: Count, overlapped: bool = False) -> Pixels:
        assert sample.done == sample.steps
        if overlapped or self.is_asynchronous:
            assert self.overlap_gate.wait(10)
            self.decoded_overlapped.append(sample.seed)
        if sample.seed in self.undecodable:
            self.undecodable.remove(sample.seed)
            raise OutOfMemoryError("there is no room for a picture")
        return np.full((4, 4, 3), sample.seed, np.uint8)

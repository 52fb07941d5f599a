"""Small truths that stand in for models where a test is about something else."""

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future

import numpy as np

from deployments.diffusion.scheduler import Row
from deployments.types import AvatarSpec, FaceEmbedding, GeneratedImage, Pixels

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


def row(*, group: Hashable = "a", **changes: object) -> Row:
    return Row(avatar_spec(**changes), face().vector, group, arrived_at=0.0, future=Future[GeneratedImage]())


class SeedPainter:
    """Draws pictures whose every byte is the row's seed; waits before each step while `gate` is closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.batches: list[list[int]] = []
        self.steps_done = 0
        self.poison: int | None = None

    def group(self, spec: AvatarSpec) -> Hashable:
        return spec.num_inference_steps

    def draw(self, rows: Sequence[Row], stop: Callable[[], bool]) -> list[Pixels] | None:
        seeds = [row.spec.seed for row in rows]
        self.batches.append(seeds)
        if self.poison in seeds:
            raise ValueError(f"seed {self.poison} cannot be drawn")
        self.started.set()
        for _ in range(rows[0].spec.num_inference_steps):
            if stop():
                return None
            self.gate.wait(10)
            self.steps_done += 1
        return [np.full((4, 4, 3), seed, np.uint8) for seed in seeds]

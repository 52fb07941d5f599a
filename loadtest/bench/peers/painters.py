"""The models of the peers: diffusers' own pipeline, or one that sleeps for the step times of a GPU."""

import functools
import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from deployments.types import Pixels, Vector
from loadtest.bench.engine.queues import ASSUMED, GENERATOR, Curve
from serve_app.catalog.catalog import Catalog

CURVE = ASSUMED[0]  # of 512x512 pixels, where batching pays
APP = Catalog.read(["embedded"])["face-avatar"]
SIDES = {"512": 512, "cpu": 256}
"""Image size in pixels: of the sleeping model, and of the embedded one."""

STEPS = {"512": (8, 20, 30, 50), "cpu": (4, 8, 12, 20)}
"""The mix of step counts; the small model needs few, and a minute's run needs many images."""


class Painter(Protocol):
    """What a peer generates its images with."""

    def draw(self, faces: Sequence[Vector], seeds: Sequence[int], steps: int) -> list[Pixels]:
        """An image of each face in one batch. Not thread-safe."""
        ...


def painter_of(model: str) -> Painter:
    """The painter of a model in SIDES."""
    return SleepingPainter(CURVE) if model == CURVE.name else LibraryPainter(SIDES[model])


class SleepingPainter:
    """Sleeps for the step times of a curve; all images are the same."""

    def __init__(self, curve: Curve) -> None:
        self._curve = curve

    def draw(self, faces: Sequence[Vector], seeds: Sequence[int], steps: int) -> list[Pixels]:
        """Sleeps `steps` times for the whole batch; `faces` are only counted, and `seeds` are ignored."""
        for _ in range(steps):
            time.sleep(self._curve.step_s(len(faces)))
        return [picture(SIDES[self._curve.name])] * len(faces)


class LibraryPainter:
    """StableDiffusionPipeline with the weights, prompt, guidance and number of threads of the service."""

    def __init__(self, side: int) -> None:
        # Imported here: the sleeping painter needs no torch.
        import torch

        from loadtest.bench.engine.live import LibraryPipeline, Prompts

        config = GENERATOR.models["embedded"]
        torch.set_num_threads(config.threads)
        self._pipeline = LibraryPipeline(config)
        defaults = APP.defaults
        prompt = APP.prompt.format(gender_word="person")
        self._prompts = Prompts(prompt, defaults.negative_prompt, defaults.guidance_scale)
        self._side = side

    def draw(self, faces: Sequence[Vector], seeds: Sequence[int], steps: int) -> list[Pixels]:
        """One call of the pipeline: an image (side, side, 3) for each face."""
        return self._pipeline.draw(faces, seeds, self._prompts, steps, self._side)


@functools.cache
def picture(side: int) -> Pixels:
    """(side, side, 3): a shaded ball on black; as a PNG about as large as an avatar."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    light = np.clip(1 - x**2 - y**2, 0, 1) ** 0.5
    levels = np.stack([light * 230, light**2 * 180, light**3 * 150], axis=-1)
    grain = np.random.default_rng(0).normal(0, 1.5, levels.shape) * (light > 0)[..., None]
    pixels: Pixels = np.clip(levels + grain, 0, 255).astype(np.uint8)
    return pixels

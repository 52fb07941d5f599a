"""Two images of different steps, prompts, faces and guidance, drawn together here and one by one by diffusers."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from deployments.config import DiffusionModelConfig
from deployments.diffusion.model.denoiser import FaceDiffusionModel
from deployments.types import AvatarSpec, FaceEmbedding
from loadtest.bench.full_size.figures import StepTime
from loadtest.bench.full_size.library import library_pipeline
from loadtest.bench.random_face import random_face

T = TypeVar("T")

OTHER_PROMPT = "a lighthouse in a storm"
OTHER_FACE = 99

Latents = NDArray[np.float32]  # (1, c, h, w), after the last step


class Request(NamedTuple):
    """An image to be drawn."""

    spec: AvatarSpec
    face: FaceEmbedding


@dataclass(frozen=True, slots=True)
class Drawn:
    """Both images, the first one again with another face or prompt, and the median time of the shared steps."""

    latents: list[Latents]
    other_face: Latents
    other_prompt: Latents
    step: StepTime


def requests(size_px: int) -> list[Request]:
    """The two images."""
    first = AvatarSpec(
        model="", seed=1, prompt="portrait of a woman, joyous", negative_prompt="blurry", width=size_px, height=size_px,
        num_inference_steps=2, guidance_scale=7.5, task_id="", image_index=0, submitted_at=0.0, deadline=0.0,
    )  # fmt: skip
    changes: dict[str, Any] = {"seed": 2, "prompt": "a man with a hat", "negative_prompt": "", "guidance_scale": 3.0}
    return [Request(first, random_face(1)), Request(replace(first, **changes, num_inference_steps=3), random_face(2))]


def draw(model: FaceDiffusionModel, size_px: int) -> Drawn:
    """With the project's own model."""
    both = requests(size_px)
    first = both[0]
    latents, steps = _draw_together(model, both)
    (other_face,), _ = _draw_together(model, [first._replace(face=random_face(OTHER_FACE))])
    (other_prompt,), _ = _draw_together(model, [first._replace(spec=replace(first.spec, prompt=OTHER_PROMPT))])
    return Drawn(latents, other_face, other_prompt, StepTime(*map(statistics.median, zip(*steps, strict=True))))


def timed(step: Callable[[], T]) -> tuple[T, StepTime]:
    """What it returns, and what it took."""
    started, used = time.perf_counter(), time.process_time()
    result = step()
    return result, StepTime(time.perf_counter() - started, time.process_time() - used)


def _draw_together(model: FaceDiffusionModel, wanted: Sequence[Request]) -> tuple[list[Latents], list[StepTime]]:
    """And the times of the steps that all of them share."""
    samples = [model.start(request.spec, request.face) for request in wanted]
    shared = []
    while left := [sample for sample in samples if sample.steps_done < len(sample.plan.steps)]:
        _, step_time = timed(partial(model.step, left))
        if len(left) == len(samples):
            shared.append(step_time)
    return [sample.latents.numpy() for sample in samples], shared


def draw_by_library(config: DiffusionModelConfig, size_px: int) -> list[Latents]:
    """With diffusers' pipeline of Stable Diffusion 1.5 in float32, one by one."""
    torch.set_num_threads(config.threads)
    pipeline = library_pipeline(StableDiffusionPipeline, config)
    pipeline.set_progress_bar_config(disable=True)
    return [_drawn_by_library(pipeline, request) for request in requests(size_px)]


def _drawn_by_library(pipeline: Any, request: Request) -> Latents:
    spec, vector = request.spec, torch.from_numpy(request.face.vector)[None, None]
    latents: Latents = pipeline(
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        width=spec.width,
        height=spec.height,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        ip_adapter_image_embeds=[torch.cat([torch.zeros_like(vector), vector])],
        generator=torch.Generator().manual_seed(spec.seed),
        output_type="latent",
    ).images.numpy()
    return latents


def relative(ours: Latents, theirs: Latents) -> float:
    """The largest difference, relative to the largest number."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
